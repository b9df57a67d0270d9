// SPDX-License-Identifier: GPL-2.0
/*
 * Loading and unloading.
 */
#include <linux/module.h>
#include <net/genetlink.h>
#include <net/rtnetlink.h>

#include "netdev.h"
#include "netlink.h"
#include "socket.h"
#include "table.h"

static int __init utun_init(void)
{
	int ret;

	utun_table_setup();
	ret = utun_netdev_register();
	if (ret)
		return ret;
	ret = utun_netlink_register();
	if (ret)
		goto err_unregister_netdev;
	return 0;

err_unregister_netdev:
	utun_netdev_unregister();
	return ret;
}

static void __exit utun_exit(void)
{
	utun_netlink_unregister();
	utun_netdev_unregister();
	utun_socket_drain();
	/* Peers are freed by RCU callbacks of this module. */
	rcu_barrier();
}

module_init(utun_init);
module_exit(utun_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("The ddtb6 authors");
MODULE_DESCRIPTION("IPv6 tunnels to many peers over one device and one UDP port");
MODULE_VERSION("1");
MODULE_ALIAS_RTNL_LINK("utun");
MODULE_ALIAS_GENL_FAMILY("utun");
