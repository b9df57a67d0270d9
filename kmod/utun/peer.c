// SPDX-License-Identifier: GPL-2.0
/*
 * Making, replacing and freeing peers. Not here: finding them (table.c).
 */
#include <linux/jiffies.h>
#include <linux/slab.h>
#include <net/ipv6.h>

#include "peer.h"

/**
 * utun_peer_create() - make a peer that no table has yet
 * @config: what it shall be, checked, without two equal prefixes
 * @old: the peer that it replaces, whose counters it shares from now on, or NULL
 *
 * Return: the peer, which the caller owns, or NULL without memory.
 */
struct utun_peer *utun_peer_create(const struct utun_peer_config *config,
				   const struct utun_peer *old)
{
	struct utun_peer *peer;
	int at, cpu;

	BUILD_BUG_ON(sizeof(struct utun_path) != 32 || sizeof(struct utun_node) != 64);
	peer = kzalloc(struct_size(peer, nodes, config->n_prefixes) +
			       config->n_prefixes * sizeof(struct utun_range),
		       GFP_KERNEL_ACCOUNT);
	if (!peer)
		return NULL;
	if (old) {
		peer->path.cpu = old->path.cpu;
		peer->moved = old->moved;
	} else {
		peer->path.cpu = __alloc_percpu_gfp(sizeof(*peer->path.cpu),
						    L1_CACHE_BYTES, GFP_KERNEL_ACCOUNT);
		if (!peer->path.cpu) {
			kfree(peer);
			return NULL;
		}
		for_each_possible_cpu(cpu)
			u64_stats_init(&per_cpu_ptr(peer->path.cpu, cpu)->sync);
	}
	peer->path.ends = config->ends;
	peer->path.id = config->id;
	peer->path.mtu = config->mtu;
	peer->path.flags = config->flags;
	peer->path.n_nodes = config->n_prefixes;
	for (at = 0; at < config->n_prefixes; at++) {
		struct utun_node *node = &peer->nodes[at];

		memcpy(&node->address, config->prefixes[at].address, sizeof(node->address));
		node->length = config->prefixes[at].length;
		node->index = at;
		node->path = peer->path;
		utun_node_range(node)->node = node;
	}
	return peer;
}

/**
 * utun_peer_discard() - free a peer that was never in a table
 * @peer: the peer
 * @with_counters: whether it is the only one that has them
 */
void utun_peer_discard(struct utun_peer *peer, bool with_counters)
{
	if (with_counters)
		free_percpu(peer->path.cpu);
	kfree(peer);
}

/**
 * utun_peer_retire() - free a peer that was replaced, when no packet sees it any more
 * @peer: the peer; its counters are its successor's
 */
void utun_peer_retire(struct utun_peer *peer)
{
	kfree_rcu(peer, rcu);
}

static void utun_peer_free_rcu(struct rcu_head *rcu)
{
	struct utun_peer *peer = container_of(rcu, struct utun_peer, rcu);
	int cpu;

	for_each_possible_cpu(cpu)
		dst_release(per_cpu_ptr(peer->path.cpu, cpu)->dst);
	free_percpu(peer->path.cpu);
	kfree(peer);
}

/**
 * utun_peer_release() - free a peer with its counters, when no packet sees it any more
 * @peer: the peer, in no table any more
 */
void utun_peer_release(struct utun_peer *peer)
{
	call_rcu(&peer->rcu, utun_peer_free_rcu);
}

/**
 * utun_peer_config_of() - what a peer is, as netlink would say it
 * @peer: the peer
 * @config: written
 */
void utun_peer_config_of(const struct utun_peer *peer, struct utun_peer_config *config)
{
	int at;

	memset(config, 0, sizeof(*config));
	config->id = peer->path.id;
	config->flags = peer->path.flags;
	config->mtu = peer->path.mtu;
	config->ends = peer->path.ends;
	config->n_prefixes = peer->path.n_nodes;
	for (at = 0; at < peer->path.n_nodes; at++) {
		memcpy(config->prefixes[at].address, &peer->nodes[at].address,
		       sizeof(struct in6_addr));
		config->prefixes[at].length = peer->nodes[at].length;
	}
}

/**
 * utun_peer_stats_read() - add up what all processors counted
 * @peer: the peer
 * @stats: written
 */
void utun_peer_stats_read(const struct utun_peer *peer, struct utun_peer_stats *stats)
{
	unsigned long now = jiffies, youngest = ULONG_MAX;
	int cpu, at;

	memset(stats, 0, sizeof(*stats));
	for_each_possible_cpu(cpu) {
		const struct utun_peer_cpu *each = per_cpu_ptr(peer->path.cpu, cpu);
		unsigned long last = READ_ONCE(each->last_rx);
		struct utun_peer_stats part;
		unsigned int start;

		do {
			start = u64_stats_fetch_begin(&each->sync);
			part.rx_packets = u64_stats_read(&each->rx_packets);
			part.rx_bytes = u64_stats_read(&each->rx_bytes);
			part.tx_packets = u64_stats_read(&each->tx_packets);
			part.tx_bytes = u64_stats_read(&each->tx_bytes);
			for (at = 0; at < UTUN_PEER_DROPS; at++)
				part.drops[at] = u64_stats_read(&each->drops[at]);
		} while (u64_stats_fetch_retry(&each->sync, start));

		stats->rx_packets += part.rx_packets;
		stats->rx_bytes += part.rx_bytes;
		stats->tx_packets += part.tx_packets;
		stats->tx_bytes += part.tx_bytes;
		for (at = 0; at < UTUN_PEER_DROPS; at++)
			stats->drops[at] += part.drops[at];
		if (last) {
			stats->seen = true;
			/* A packet may come in after @now was read. */
			youngest = min(youngest, time_before(last, now) ? now - last : 0);
		}
	}
	if (stats->seen)
		stats->last_rx_msecs = jiffies_to_msecs(youngest);
}
