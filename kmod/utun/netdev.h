/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The network device, and what belongs to it.
 */
#ifndef _UTUN_NETDEV_H
#define _UTUN_NETDEV_H

#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/ratelimit.h>
#include <linux/workqueue.h>
#include <net/gro_cells.h>
#include <net/netns/generic.h>

#include "table.h"

/* Outer headers: IPv4 and UDP, or IPv4 alone. */
#define UTUN_UDP_OVERHEAD	(sizeof(struct iphdr) + sizeof(struct udphdr))
#define UTUN_SIXINFOUR_OVERHEAD	sizeof(struct iphdr)

/* Largest inner packet that fits an IPv4 packet over UDP: 65507 octets. */
#define UTUN_MTU_MAX		(65535 - UTUN_UDP_OVERHEAD)

/* Packets that belong to no peer, by reason - 1. */
struct utun_drops {
	u64_stats_t		drops[UTUN_DROP_MAX];
	struct u64_stats_sync	sync;
};

struct utun {
	struct net_device	*dev;
	struct utun_table	table;		/* changed under @lock, read under RCU */
	struct list_head	sockets;	/* under utun_socket_lock, read under RCU */
	u32			n_sockets;	/* under utun_socket_lock */
	struct gro_cells	cells;
	struct utun_drops __percpu *drops;
	struct net		*outer;		/* where protocol 41 is; outlives the device */
	struct list_head	outer_node;	/* of struct utun_net; under RTNL, read under RCU */
	struct mutex		lock;		/* inside RTNL, outside utun_socket_lock */
	bool			dead;		/* under @lock: takes no peers and sockets now */
	struct ratelimit_state	events;
	struct work_struct	move_work;	/* moves the peer below */
	spinlock_t		move_lock;	/* protects the next three */
	bool			move_pending;
	u32			move_id;
	struct utun_ends	move_ends;
};

/* What a network namespace has: the devices made in it. */
struct utun_net {
	struct list_head	devices;	/* of struct utun by @outer_node */
};

extern unsigned int utun_net_id;

int utun_netdev_register(void);
void utun_netdev_unregister(void);
bool utun_netdev_is(const struct net_device *dev);
void utun_netdev_clear(struct utun *ut);

static inline bool utun_netdev_crosses(const struct utun *ut, const struct net *outer)
{
	return !net_eq(outer, dev_net(ut->dev));
}

#endif /* _UTUN_NETDEV_H */
