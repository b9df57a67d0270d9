/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Counting and dropping. Whatever is not carried ends in utun_drop(), once.
 */
#ifndef _UTUN_STATS_H
#define _UTUN_STATS_H

#include <linux/skbuff.h>
#include <linux/tcp.h>

#include "compat.h"
#include "netdev.h"
#include "trace.h"

/* Bottom halves are disabled. @path is NULL where the packet belongs to none. */
static inline void utun_count_drop(struct utun *ut, const struct utun_path *path,
				   enum utun_drop reason)
{
	if (path && reason <= UTUN_PEER_DROPS) {
		utun_path_count_drop(path, reason);
	} else {
		struct utun_drops *drops = this_cpu_ptr(ut->drops);

		u64_stats_update_begin(&drops->sync);
		u64_stats_inc(&drops->drops[reason - 1]);
		u64_stats_update_end(&drops->sync);
	}
	trace_utun_drop(ut->dev, path ? path->id : 0, reason);
}

/* Counts and frees a packet. @transmit: it was going out. */
static inline void utun_drop(struct utun *ut, const struct utun_path *path, struct sk_buff *skb,
			     enum utun_drop reason, bool transmit)
{
	utun_count_drop(ut, path, reason);
	if (transmit)
		dev_core_stats_tx_dropped_inc(ut->dev);
	else
		dev_core_stats_rx_dropped_inc(ut->dev);
	kfree_skb(skb);
}

struct utun_size {
	u32	packets;
	u32	bytes;
};

/*
 * What an inner packet is, or was, on the wire: one that stands for many segments had the headers
 * of each. skb->data is at the IPv6 header.
 */
static inline struct utun_size utun_size_of(const struct sk_buff *skb)
{
	struct utun_size size = { .packets = 1, .bytes = skb->len };
	u32 headers, segment = skb_shinfo(skb)->gso_size;
	struct tcphdr _tcp;
	const struct tcphdr *tcp;

	if (likely(!skb_is_gso(skb)) || skb->ip_summed != CHECKSUM_PARTIAL)
		return size;
	headers = skb_checksum_start_offset(skb);
	if (skb_shinfo(skb)->gso_type & (SKB_GSO_TCPV6 | SKB_GSO_TCPV4)) {
		tcp = skb_header_pointer(skb, headers, sizeof(_tcp), &_tcp);
		if (!tcp)
			return size;
		headers += __tcp_hdrlen(tcp);
	} else {
		headers += sizeof(struct udphdr);
	}
	if (!segment || skb->len <= headers)
		return size;
	size.packets = DIV_ROUND_UP(skb->len - headers, segment);
	size.bytes += (size.packets - 1) * headers;
	return size;
}

#endif /* _UTUN_STATS_H */
