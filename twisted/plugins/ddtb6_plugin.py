# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes `twistd ddtb6` exist. twistd imports every plugin for its list, so nothing else is imported here."""

from twisted.application.service import ServiceMaker

ddtb6 = ServiceMaker("ddtb6", "ddtb6.tap", "IPv6 tunnel broker", "ddtb6")
