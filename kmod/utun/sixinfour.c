// SPDX-License-Identifier: GPL-2.0
/*
 * Protocol 41: IPv6 in IPv4 without UDP (RFC 4213). There is no socket and no port; a peer is a
 * pair of addresses.
 *
 * We stand before sit in the queue for protocol 41 and take what comes on the path of a peer; all
 * else goes on to sit, and to its own tunnels.
 */
#include <linux/icmp.h>
#include <linux/skbuff.h>
#include <net/ip.h>
#include <net/xfrm.h>

#include "netlink.h"
#include "rx.h"
#include "sixinfour.h"
#include "stats.h"

/* sit has 1, xfrm 2 and 3. */
#define UTUN_SIXINFOUR_PRIORITY 0

/* The peer of an outer path, and its device in @found; NULL if there is none. */
static struct utun_peer *utun_sixinfour_peer(struct net *outer, __be32 local, __be32 remote,
					     struct utun **found)
{
	const struct utun_ends ends = {
		.local = local,
		.remote = remote,
		.transport = UTUN_TRANSPORT_SIXINFOUR,
	};
	struct utun_net *here = net_generic(outer, utun_net_id);
	struct utun_peer *peer;
	struct utun *ut;

	list_for_each_entry_rcu(ut, &here->devices, outer_node) {
		if (!READ_ONCE(ut->table.sixinfours))
			continue;
		peer = utun_table_by_ends(&ut->table, &ends);
		if (peer) {
			*found = ut;
			return peer;
		}
	}
	return NULL;
}

/**
 * utun_sixinfour_rcv() - a protocol 41 packet came
 * @skb: the packet, skb->data at the inner header
 *
 * Return: 0 if it was consumed, anything else if it goes on to the next in the queue.
 */
static int utun_sixinfour_rcv(struct sk_buff *skb)
{
	const struct iphdr *ip = ip_hdr(skb);
	struct net *outer = dev_net(skb->dev);
	struct utun_peer *peer;
	struct utun *ut;

	peer = utun_sixinfour_peer(outer, ip->daddr, ip->saddr, &ut);
	if (!peer)
		return -ENOENT;
	utun_rx_deliver(ut, peer, skb, 0, outer);
	return 0;
}

/**
 * utun_sixinfour_err() - an ICMP error came for a protocol 41 packet
 * @skb: what the error quotes, skb->data at the quoted IPv4 header
 * @info: the MTU, if that is what it is about
 *
 * Return: 0 if the packet was a peer's, anything else if the next in the queue shall be asked.
 */
static int utun_sixinfour_err(struct sk_buff *skb, u32 info)
{
	const struct iphdr *ip = (const struct iphdr *)skb->data;
	const int type = icmp_hdr(skb)->type, code = icmp_hdr(skb)->code;
	struct net *outer = dev_net(skb->dev);
	struct utun_peer *peer;
	struct utun *ut;

	peer = utun_sixinfour_peer(outer, ip->saddr, ip->daddr, &ut);
	if (!peer)
		return -ENOENT;
	if (type == ICMP_DEST_UNREACH && code == ICMP_FRAG_NEEDED)
		ipv4_update_pmtu(skb, outer, info, 0, IPPROTO_IPV6);
	else
		utun_netlink_event(ut, UTUN_EVENT_UNREACHABLE, peer->path.id, &peer->path.ends,
				   NULL);
	return 0;
}

static struct xfrm_tunnel utun_sixinfour_handler __read_mostly = {
	.handler = utun_sixinfour_rcv,
	.err_handler = utun_sixinfour_err,
	.priority = UTUN_SIXINFOUR_PRIORITY,
};

/**
 * utun_sixinfour_register() - take protocol 41 packets from now on
 *
 * Return: 0 or a negative error.
 */
int __init utun_sixinfour_register(void)
{
	return xfrm4_tunnel_register(&utun_sixinfour_handler, AF_INET6);
}

/**
 * utun_sixinfour_unregister() - take no more; waits for those under way
 */
void utun_sixinfour_unregister(void)
{
	xfrm4_tunnel_deregister(&utun_sixinfour_handler, AF_INET6);
}
