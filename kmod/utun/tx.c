// SPDX-License-Identifier: GPL-2.0
/*
 * From inner packets to outer ones.
 */
#include <linux/icmpv6.h>
#include <net/inet_ecn.h>
#include <net/ip_tunnels.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/udp_tunnel.h>

#include "address.h"
#include "compat.h"
#include "socket.h"
#include "stats.h"
#include "tx.h"

/* A packet on its way out, and what was found out about it. */
struct utun_tx {
	struct utun *ut;
	const struct utun_path *path; /* of the peer, or NULL */
	struct sock *sk; /* NULL with protocol 41 */
	u32 socket; /* the attachment of @sk, or 0 */
	struct net *outer;
	struct rtable *rt; /* held */
	unsigned int route_mtu;
	unsigned int overhead;
};

/*
 * The route to a peer: the one of this processor's last packet if it still holds, else a new one.
 * dst_cache would do the same with another allocation, and another cold cache line for each packet.
 *
 * Return: a held route, or an error pointer.
 */
static struct rtable *utun_tx_route(const struct utun_tx *tx)
{
	const struct utun_ends *ends = &tx->path->ends;
	struct utun_peer_cpu *cpu = this_cpu_ptr(tx->path->cpu);
	struct flowi4 flow = {};
	struct rtable *rt;

	if (likely(cpu->dst && cpu->dst_remote == ends->remote && cpu->dst_local == ends->local &&
		   cpu->dst_remote_port == ends->remote_port &&
		   cpu->dst_local_port == ends->local_port && cpu->dst_socket == tx->socket &&
		   dst_check(cpu->dst, 0))) {
		dst_hold(cpu->dst);
		return (struct rtable *)cpu->dst;
	}
	flow.daddr = ends->remote;
	flow.saddr = ends->local;
	flow.fl4_dport = ends->remote_port;
	flow.fl4_sport = ends->local_port;
	flow.flowi4_proto = tx->sk ? IPPROTO_UDP : IPPROTO_IPV6;
	if (tx->sk) {
		flow.flowi4_mark = READ_ONCE(tx->sk->sk_mark);
		flow.flowi4_oif = READ_ONCE(tx->sk->sk_bound_dev_if);
	}
	rt = ip_route_output_key(tx->outer, &flow);
	if (IS_ERR(rt))
		return rt;
	dst_release(cpu->dst);
	cpu->dst = dst_clone(&rt->dst);
	cpu->dst_remote = ends->remote;
	cpu->dst_local = ends->local;
	cpu->dst_remote_port = ends->remote_port;
	cpu->dst_local_port = ends->local_port;
	cpu->dst_socket = tx->socket;
	return rt;
}

/* Judges a packet as far as that takes no route. Return: 0 or the reason to drop it. */
static enum utun_drop utun_tx_judge(struct utun_tx *tx, struct sk_buff *skb)
{
	struct utun *ut = tx->ut;
	const struct ipv6hdr *ip6;
	const struct utun_node *node;
	struct utun_socket *us;
	enum utun_drop reason;

	if (unlikely(skb->protocol != htons(ETH_P_IPV6) || !pskb_may_pull(skb, sizeof(*ip6))))
		return UTUN_DROP_MALFORMED;
	ip6 = ipv6_hdr(skb);
	if (unlikely(ip6->version != 6 ||
		     (ntohs(ip6->payload_len) + sizeof(*ip6) != skb->len && !skb_is_gso(skb))))
		return UTUN_DROP_MALFORMED;
	node = utun_table_by_address(&ut->table, &ip6->daddr);
	if (unlikely(!node)) {
		reason = utun_address_destination_fault(ut->outer, &ip6->daddr);
		if (reason)
			return reason;
		icmpv6_ndo_send(skb, ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH, 0);
		return UTUN_DROP_NO_TUNNEL;
	}
	tx->path = &node->path;
	utun_path_prefetch(tx->path);
	if (tx->path->ends.transport == UTUN_TRANSPORT_UDP) {
		us = utun_socket_of(ut, &tx->path->ends);
		if (unlikely(!us))
			return UTUN_DROP_NOT_SENT;
		tx->sk = us->sk;
		tx->socket = us->number;
		tx->outer = sock_net(us->sk);
		tx->overhead = UTUN_UDP_OVERHEAD;
	} else {
		tx->outer = ut->outer;
		tx->overhead = UTUN_SIXINFOUR_OVERHEAD;
	}
	reason = utun_address_source_fault(tx->outer, &ip6->saddr);
	return reason ?: utun_address_destination_fault(tx->outer, &ip6->daddr);
}

/* Whether the packet fits its route; if not, its sender hears of it. */
static bool utun_tx_fits(const struct utun_tx *tx, struct sk_buff *skb)
{
	unsigned int mtu = tx->route_mtu - tx->overhead;

	/* Every link carries 1280 octets (RFC 8200 section 5), if need be in outer fragments. */
	mtu = max_t(unsigned int, min_t(unsigned int, mtu, tx->path->mtu), IPV6_MIN_MTU);
	if (skb_is_gso(skb) ? skb_gso_validate_network_len(skb, mtu) : skb->len <= mtu)
		return true;
	icmpv6_ndo_send(skb, ICMPV6_PKT_TOOBIG, 0, mtu);
	return false;
}

/**
 * utun_tx() - ndo_start_xmit
 * @skb: an inner packet that was routed to the device; consumed
 * @dev: the device
 *
 * Return: NETDEV_TX_OK, always.
 */
netdev_tx_t utun_tx(struct sk_buff *skb, struct net_device *dev)
{
	struct utun_tx tx = { .ut = netdev_priv(dev) };
	const struct utun_ends *ends;
	enum utun_drop reason;
	struct utun_size size;
	bool udp, checksum;
	u8 tos, ttl;
	__be16 df;

	rcu_read_lock();
	reason = utun_tx_judge(&tx, skb);
	if (unlikely(reason))
		goto drop;
	ends = &tx.path->ends;
	udp = ends->transport == UTUN_TRANSPORT_UDP;

	reason = UTUN_DROP_NOT_SENT;
	tx.rt = utun_tx_route(&tx);
	if (IS_ERR(tx.rt))
		goto drop;
	if (unlikely(tx.rt->dst.dev == dev)) {
		reason = UTUN_DROP_LOOP;
		goto drop_route;
	}
	tx.route_mtu = dst_mtu(&tx.rt->dst);
	if (unlikely(!utun_tx_fits(&tx, skb))) {
		reason = UTUN_DROP_TOO_BIG;
		goto drop_route;
	}

	size = utun_size_of(skb);
	tos = INET_ECN_encapsulate(0, ipv6_get_dsfield(ipv6_hdr(skb)));
	ttl = ip4_dst_hoplimit(&tx.rt->dst);
	df = tx.route_mtu >= IPV6_MIN_MTU + tx.overhead ? htons(IP_DF) : 0;
	checksum = !(tx.path->flags & UTUN_PEER_F_NO_CHECKSUM);
	if (unlikely(skb_cow_head(skb, LL_RESERVED_SPACE(tx.rt->dst.dev) + tx.rt->dst.header_len +
					       tx.overhead)))
		goto drop_route;
	if (unlikely(udp ? udp_tunnel_handle_offloads(skb, checksum) :
			   iptunnel_handle_offloads(skb, SKB_GSO_IPXIP4)))
		goto drop_route;

	utun_path_count_tx(tx.path, size.packets, size.bytes);
	if (udp) {
		skb_set_inner_protocol(skb, htons(ETH_P_IPV6));
		utun_compat_udp_xmit(tx.rt, tx.sk, skb, ends->local, ends->remote, tos, ttl, df,
				     ends->local_port, ends->remote_port,
				     utun_netdev_crosses(tx.ut, tx.outer), !checksum);
	} else {
		skb_set_inner_ipproto(skb, IPPROTO_IPV6);
		utun_compat_ip_xmit(tx.rt, skb, ends->local, ends->remote, IPPROTO_IPV6, tos, ttl,
				    df, utun_netdev_crosses(tx.ut, tx.outer));
	}
	rcu_read_unlock();
	return NETDEV_TX_OK;

drop_route:
	ip_rt_put(tx.rt);
drop:
	utun_drop(tx.ut, tx.path, skb, reason, true);
	rcu_read_unlock();
	return NETDEV_TX_OK;
}
