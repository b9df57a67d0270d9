# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: TOML in, frozen dataclasses out, all errors at once.

`sections` is what can be said, `reading` turns a file into it, `sample` writes one.
"""

from ddtb6.config.documentation import describe
from ddtb6.config.reading import ConfigError, Problem, cautions, load, parse, radius_client_secret, radius_secret
from ddtb6.config.sections import (
    AuthConfig,
    Config,
    DataPlaneConfig,
    FirewallConfig,
    LimitsConfig,
    ListenConfig,
    PoolConfig,
    RadiusConfig,
    RadiusDynamicClientConfig,
    RadiusDynamicConfig,
    RadiusServerConfig,
    ServerConfig,
    TunnelConfig,
    WebConfig,
)

__all__ = [
    "AuthConfig",
    "Config",
    "ConfigError",
    "DataPlaneConfig",
    "FirewallConfig",
    "LimitsConfig",
    "ListenConfig",
    "PoolConfig",
    "Problem",
    "RadiusConfig",
    "RadiusDynamicClientConfig",
    "RadiusDynamicConfig",
    "RadiusServerConfig",
    "ServerConfig",
    "TunnelConfig",
    "WebConfig",
    "cautions",
    "describe",
    "load",
    "parse",
    "radius_client_secret",
    "radius_secret",
]
