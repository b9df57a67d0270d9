// SPDX-License-Identifier: GPL-2.0
/*
 * The life of the network device.
 *
 * It may end in four ways: a request, the end of its namespace, the end of the namespace it was
 * made in, and the module's. All come to utun_netdev_uninit(), under RTNL. Requests by netlink do
 * not hold RTNL, so one may have found the device just before; @dead tells it that it came too
 * late.
 */
#include <linux/ethtool.h>
#include <linux/if_arp.h>
#include <net/rtnetlink.h>

#include "compat.h"
#include "netdev.h"
#include "netlink.h"
#include "sixinfour.h"
#include "socket.h"
#include "tx.h"

#define UTUN_EVENTS_A_SECOND 20

unsigned int utun_net_id __read_mostly;

static struct rtnl_link_ops utun_netdev_link_ops;

/* Follows a peer to its new port. All is asked again: much may have changed since the packet. */
static void utun_netdev_move(struct work_struct *work)
{
	struct utun *ut = container_of(work, struct utun, move_work);
	struct utun_peer_config *config;
	struct utun_peer *old, *peer;
	struct utun_ends ends;
	u32 id;

	spin_lock_bh(&ut->move_lock);
	id = ut->move_id;
	ends = ut->move_ends;
	spin_unlock_bh(&ut->move_lock);

	config = kmalloc(sizeof(*config), GFP_KERNEL);
	mutex_lock(&ut->lock);
	old = utun_table_by_id(&ut->table, id);
	if (config && !ut->dead && old && old->path.flags & UTUN_PEER_F_ROAM_PORT &&
	    old->path.ends.remote == ends.remote && old->path.ends.local == ends.local &&
	    old->path.ends.local_port == ends.local_port &&
	    old->path.ends.remote_port != ends.remote_port) {
		utun_peer_config_of(old, config);
		config->ends = ends;
		peer = utun_peer_create(config, old);
		if (peer && utun_table_put(&ut->table, peer, old, NULL)) {
			utun_peer_discard(peer, false);
		} else if (peer) {
			peer->moved = jiffies;
			utun_peer_retire(old);
			utun_netlink_event(ut, UTUN_EVENT_MOVED, id, &ends, NULL);
		}
	}
	mutex_unlock(&ut->lock);
	kfree(config);

	spin_lock_bh(&ut->move_lock);
	ut->move_pending = false;
	spin_unlock_bh(&ut->move_lock);
}

/**
 * utun_netdev_clear() - remove all peers
 * @ut: the device, its lock held
 */
void utun_netdev_clear(struct utun *ut)
{
	struct utun_peer *peer;
	unsigned long id;

	lockdep_assert_held(&ut->lock);
	xa_for_each(&ut->table.ids, id, peer) {
		utun_table_remove(&ut->table, peer);
		utun_peer_release(peer);
		cond_resched();
	}
}

static void utun_netdev_uninit(struct net_device *dev)
{
	struct utun *ut = netdev_priv(dev);

	if (ut->outer)
		list_del_rcu(&ut->outer_node);
	mutex_lock(&ut->lock);
	ut->dead = true;
	utun_socket_detach_all(ut);
	utun_netdev_clear(ut);
	mutex_unlock(&ut->lock);
	/* From here on no packet finds the device. */
	synchronize_net();
	cancel_work_sync(&ut->move_work);
	gro_cells_destroy(&ut->cells);
}

/* When the last reference is gone. */
static void utun_netdev_destructor(struct net_device *dev)
{
	struct utun *ut = netdev_priv(dev);

	utun_table_destroy(&ut->table);
	free_percpu(ut->drops);
	utun_compat_stats_free(dev);
	mutex_destroy(&ut->lock);
}

static int utun_netdev_init(struct net_device *dev)
{
	struct utun *ut = netdev_priv(dev);
	int ret, cpu;

	ut->dev = dev;
	mutex_init(&ut->lock);
	spin_lock_init(&ut->move_lock);
	INIT_LIST_HEAD(&ut->sockets);
	INIT_WORK(&ut->move_work, utun_netdev_move);
	ratelimit_state_init(&ut->events, HZ, UTUN_EVENTS_A_SECOND);
	ratelimit_set_flags(&ut->events, RATELIMIT_MSG_ON_RELEASE);

	ret = utun_compat_stats_init(dev);
	if (ret)
		return ret;
	ret = -ENOMEM;
	ut->drops = alloc_percpu(struct utun_drops);
	if (!ut->drops)
		goto err_free_stats;
	for_each_possible_cpu(cpu)
		u64_stats_init(&per_cpu_ptr(ut->drops, cpu)->sync);
	ret = utun_table_init(&ut->table);
	if (ret)
		goto err_free_drops;
	ret = gro_cells_init(&ut->cells, dev);
	if (ret)
		goto err_destroy_table;
	/* Not before: with an error from here the core does not call it. */
	dev->priv_destructor = utun_netdev_destructor;
	return 0;

err_destroy_table:
	utun_table_destroy(&ut->table);
err_free_drops:
	free_percpu(ut->drops);
err_free_stats:
	utun_compat_stats_free(dev);
	return ret;
}

static const struct net_device_ops utun_netdev_ops = {
	.ndo_init = utun_netdev_init,
	.ndo_uninit = utun_netdev_uninit,
	.ndo_start_xmit = utun_tx,
	.ndo_get_stats64 = dev_get_tstats64,
};

static void utun_netdev_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, KBUILD_MODNAME, sizeof(info->driver));
}

static const struct ethtool_ops utun_netdev_ethtool_ops = {
	.get_drvinfo = utun_netdev_get_drvinfo,
	.get_link = ethtool_op_get_link,
};

static const struct device_type utun_netdev_type = { .name = KBUILD_MODNAME };

static void utun_netdev_setup(struct net_device *dev)
{
	/* Of a fraglist only the first packet would have its outer headers. */
	const netdev_features_t gso = NETIF_F_GSO_SOFTWARE & ~NETIF_F_GSO_FRAGLIST;
	const netdev_features_t features = NETIF_F_SG | NETIF_F_FRAGLIST | NETIF_F_HIGHDMA |
					   NETIF_F_HW_CSUM | NETIF_F_RXCSUM | gso;

	dev->netdev_ops = &utun_netdev_ops;
	dev->ethtool_ops = &utun_netdev_ethtool_ops;
	SET_NETDEV_DEVTYPE(dev, &utun_netdev_type);
	dev->type = ARPHRD_NONE;
	/* Not IFF_MULTICAST: what a host says to its links is for none of the peers. */
	dev->flags = IFF_POINTOPOINT | IFF_NOARP;
	dev->priv_flags |= IFF_NO_QUEUE;
	dev->needed_headroom = LL_MAX_HEADER + UTUN_UDP_OVERHEAD;
	dev->mtu = IPV6_MIN_MTU;
	dev->min_mtu = IPV6_MIN_MTU;
	dev->max_mtu = UTUN_MTU_MAX;
	dev->features |= features;
	dev->hw_features |= features;
	utun_compat_lltx(dev);
	netif_keep_dst(dev);
	dev->needs_free_netdev = true;
}

static int utun_netdev_newlink(UTUN_NEWLINK_ARGS)
{
	struct net *outer = UTUN_NEWLINK_NET;
	struct utun *ut = netdev_priv(dev);
	struct utun_net *here = net_generic(outer, utun_net_id);
	int ret;

	ret = register_netdevice(dev);
	if (ret)
		return ret;
	ut->outer = outer;
	list_add_tail_rcu(&ut->outer_node, &here->devices);
	return 0;
}

static struct rtnl_link_ops utun_netdev_link_ops __read_mostly = {
	.kind = KBUILD_MODNAME,
	.priv_size = sizeof(struct utun),
	.setup = utun_netdev_setup,
	.newlink = utun_netdev_newlink,
};

/**
 * utun_netdev_is() - whether a device is one of ours
 * @dev: a device
 *
 * Return: true if its private data is a struct utun.
 */
bool utun_netdev_is(const struct net_device *dev)
{
	return dev->netdev_ops == &utun_netdev_ops;
}

static int __net_init utun_netdev_net_init(struct net *net)
{
	struct utun_net *here = net_generic(net, utun_net_id);

	INIT_LIST_HEAD(&here->devices);
	return 0;
}

/* The core deletes devices in a namespace that ends. These were made in it and moved elsewhere. */
static void __net_exit utun_netdev_net_exit(struct list_head *nets)
{
	struct utun *ut;
	struct net *net;
	LIST_HEAD(doomed);

	rtnl_lock();
	list_for_each_entry(net, nets, exit_list) {
		struct utun_net *here = net_generic(net, utun_net_id);

		list_for_each_entry(ut, &here->devices, outer_node)
			unregister_netdevice_queue(ut->dev, &doomed);
	}
	unregister_netdevice_many(&doomed);
	rtnl_unlock();
}

static struct pernet_operations utun_netdev_net_ops = {
	.init = utun_netdev_net_init,
	.exit_batch = utun_netdev_net_exit,
	.id = &utun_net_id,
	.size = sizeof(struct utun_net),
};

/**
 * utun_netdev_register() - let devices be made
 *
 * Return: 0, or a negative error with nothing left to undo.
 */
int __init utun_netdev_register(void)
{
	int ret;

	ret = register_pernet_device(&utun_netdev_net_ops);
	if (ret)
		return ret;
	ret = utun_sixinfour_register();
	if (ret)
		goto err_unregister_net;
	ret = rtnl_link_register(&utun_netdev_link_ops);
	if (ret)
		goto err_unregister_sixinfour;
	return 0;

err_unregister_sixinfour:
	utun_sixinfour_unregister();
err_unregister_net:
	unregister_pernet_device(&utun_netdev_net_ops);
	return ret;
}

/**
 * utun_netdev_unregister() - delete all devices, and let no more be made
 */
void utun_netdev_unregister(void)
{
	rtnl_link_unregister(&utun_netdev_link_ops);
	utun_sixinfour_unregister();
	unregister_pernet_device(&utun_netdev_net_ops);
}
