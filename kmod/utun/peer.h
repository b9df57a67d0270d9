/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A peer: who is at the other end of a tunnel and which inner addresses it has.
 *
 * A peer does not change while packets can see it: a change makes another peer of the same id,
 * which takes over the counters (struct utun_peer_cpu), and the tables swap the two. So a packet
 * meets one or the other, nothing between. There is no reference count. Packets hold a peer under
 * RCU, everything else under the device's mutex.
 *
 * With very many peers each line of memory that a packet touches is a miss in the cache. So what a
 * packet needs of its peer is on one line with the key that it is found by (struct utun_peer by the
 * outer path, struct utun_node by the inner address), a copy each, and on one more that is the
 * processor's own.
 */
#ifndef _UTUN_PEER_H
#define _UTUN_PEER_H

#include <linux/cache.h>
#include <linux/in6.h>
#include <linux/prefetch.h>
#include <linux/rbtree.h>
#include <linux/rhashtable.h>
#include <linux/u64_stats_sync.h>
#include <net/dst.h>

#include "uapi/utun.h"

struct utun;

/* Reasons that a peer counts; those behind them are the device's. */
#define UTUN_PEER_DROPS UTUN_DROP_NOT_SENT

/* The outer path, a key that is compared as octets: no padding. Ports are 0 with protocol 41. */
struct utun_ends {
	__be32	local;
	__be32	remote;
	__be16	local_port;
	__be16	remote_port;
	u32	transport;		/* enum utun_transport */
} __aligned(8);

/* What netlink says a peer shall be. */
struct utun_peer_config {
	u32			id;
	u32			flags;
	u16			mtu;
	u16			n_prefixes;
	struct utun_ends	ends;
	struct utun_prefix	prefixes[UTUN_PREFIXES_MAX];
};

/* What a packet writes, on one cache line but for the drops. Bottom halves are disabled. */
struct utun_peer_cpu {
	u64_stats_t		rx_packets;
	u64_stats_t		rx_bytes;
	u64_stats_t		tx_packets;
	u64_stats_t		tx_bytes;
	unsigned long		last_rx;	/* jiffies; 0 before the first packet */
	struct dst_entry	*dst;		/* held; of the ends and the socket below */
	__be32			dst_local;
	__be32			dst_remote;
	__be16			dst_local_port;
	__be16			dst_remote_port;
	u32			dst_socket;	/* its utun_socket.number; 0 with protocol 41 */
	struct u64_stats_sync	sync;
	u64_stats_t		drops[UTUN_PEER_DROPS];	/* by reason - 1 */
};

/* What packets need of a peer. */
struct utun_path {
	struct utun_ends	ends;
	struct utun_peer_cpu __percpu *cpu;	/* handed on from one peer to the next of its id */
	u32			id;
	u16			mtu;
	u8			flags;
	u8			n_nodes;
};

/* One prefix of a peer, found by @address and @length; on a cache line of its own. */
struct utun_node {
	struct rhash_head	hash;
	struct in6_addr		address;
	u32			length;
	u32			index;		/* among the nodes of the peer */
	struct utun_path	path;
};

/* A prefix in order of address and length, for who changes tables. Under the device's mutex. */
struct utun_range {
	struct rb_node		rb;
	struct utun_node	*node;
};

/* Found by @path.ends; on a cache line, with the nodes behind it and the ranges behind them. */
struct utun_peer {
	struct rhash_head	hash;
	struct utun_path	path;
	u32			moved;		/* jiffies of the last roaming */
	struct rcu_head		rcu;
	struct utun_node	nodes[];
};

struct utun_peer_stats {
	u64	rx_packets;
	u64	rx_bytes;
	u64	tx_packets;
	u64	tx_bytes;
	u64	drops[UTUN_PEER_DROPS];
	bool	seen;
	u64	last_rx_msecs;			/* ago; only if @seen */
};

struct utun_peer *utun_peer_create(const struct utun_peer_config *config,
				   const struct utun_peer *old);
void utun_peer_discard(struct utun_peer *peer, bool with_counters);
void utun_peer_retire(struct utun_peer *peer);
void utun_peer_release(struct utun_peer *peer);
void utun_peer_config_of(const struct utun_peer *peer, struct utun_peer_config *config);
void utun_peer_stats_read(const struct utun_peer *peer, struct utun_peer_stats *stats);

static inline struct utun_peer *utun_node_peer(const struct utun_node *node)
{
	return container_of(node - node->index, struct utun_peer, nodes[0]);
}

static inline struct utun_range *utun_node_range(const struct utun_node *node)
{
	struct utun_peer *peer = utun_node_peer(node);

	return (struct utun_range *)&peer->nodes[peer->path.n_nodes] + node->index;
}

/* Has what the packet will write fetched while it is judged. */
static inline void utun_path_prefetch(const struct utun_path *path)
{
	prefetchw(this_cpu_ptr(path->cpu));
}

static inline void utun_path_count_rx(const struct utun_path *path, u32 packets, u32 bytes)
{
	struct utun_peer_cpu *cpu = this_cpu_ptr(path->cpu);

	u64_stats_update_begin(&cpu->sync);
	u64_stats_add(&cpu->rx_packets, packets);
	u64_stats_add(&cpu->rx_bytes, bytes);
	u64_stats_update_end(&cpu->sync);
	WRITE_ONCE(cpu->last_rx, jiffies ?: 1);
}

static inline void utun_path_count_tx(const struct utun_path *path, u32 packets, u32 bytes)
{
	struct utun_peer_cpu *cpu = this_cpu_ptr(path->cpu);

	u64_stats_update_begin(&cpu->sync);
	u64_stats_add(&cpu->tx_packets, packets);
	u64_stats_add(&cpu->tx_bytes, bytes);
	u64_stats_update_end(&cpu->sync);
}

static inline void utun_path_count_drop(const struct utun_path *path, enum utun_drop reason)
{
	struct utun_peer_cpu *cpu = this_cpu_ptr(path->cpu);

	u64_stats_update_begin(&cpu->sync);
	u64_stats_inc(&cpu->drops[reason - 1]);
	u64_stats_update_end(&cpu->sync);
}

#endif /* _UTUN_PEER_H */
