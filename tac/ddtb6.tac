# SPDX-License-Identifier: GPL-2.0-or-later
"""For `twistd -n --pidfile= -y tac/ddtb6.tac`, where the plugin is not installed; DDTB6_CONFIG names the configuration."""

import os
import sys

from twisted.application.service import Application
from twisted.python.usage import UsageError

from ddtb6.tap import DEFAULT_CONFIG, Options, makeService

options = Options()
try:
    options.parseOptions(["--config", os.environ.get("DDTB6_CONFIG", DEFAULT_CONFIG)])
except UsageError as error:
    sys.exit(str(error))
application = Application("ddtb6")
makeService(options).setServiceParent(application)
