// SPDX-License-Identifier: GPL-2.0
/*
 * From outer packets to inner ones.
 *
 * An inner packet passes if its outer path is a peer's and its source is one of that peer's
 * addresses. Nothing that comes in here changes a peer (unless the peer asked for
 * UTUN_PEER_F_ROAM_PORT), and nothing is answered.
 */
#include <linux/udp.h>
#include <net/inet_ecn.h>
#include <net/ip_tunnels.h>
#include <net/udp.h>

#include "address.h"
#include "compat.h"
#include "netlink.h"
#include "rx.h"
#include "socket.h"
#include "stats.h"

/* First four bits of a datagram: TSP's reliable-UDP header, and an IPv6 packet. */
#define UTUN_NIBBLE_TSP 0xf
#define UTUN_NIBBLE_IPV6 6
/* A header written in little-endian order: TSP's nibble is in the fourth octet, 0 in the first. */
#define UTUN_NIBBLE_LEGACY 0
#define UTUN_TSP_HEADER 8

/**
 * utun_rx_deliver() - take an inner packet of a peer, or drop it
 * @ut: the device
 * @peer: the peer whose outer path it came on
 * @skb: the packet, skb->data @outer_length before the inner header, the outer IPv4 header at
 *skb_network_header(); consumed
 * @outer_length: octets between skb->data and the inner header
 * @outer: the namespace it came from
 *
 * RCU is held and bottom halves are disabled.
 */
void utun_rx_deliver(struct utun *ut, struct utun_peer *peer, struct sk_buff *skb,
		     unsigned int outer_length, struct net *outer)
{
	const struct ipv6hdr *ip6;
	enum utun_drop reason;
	struct utun_size size;
	const void *outer_ip;
	int outer_offset;

	utun_path_prefetch(&peer->path);
	if (unlikely(!pskb_may_pull(skb, outer_length + sizeof(*ip6)))) {
		reason = UTUN_DROP_MALFORMED;
		goto drop;
	}
	ip6 = (struct ipv6hdr *)(skb->data + outer_length);
	/* The packet and nothing else: octets behind it would be carried uncounted. */
	if (unlikely(ip6->version != 6 ||
		     ntohs(ip6->payload_len) + sizeof(*ip6) != skb->len - outer_length)) {
		reason = UTUN_DROP_MALFORMED;
		goto drop;
	}
	reason = utun_address_source_fault(outer, &ip6->saddr);
	if (unlikely(reason))
		goto drop;
	if (unlikely(!utun_address_is_of(&ip6->saddr, peer))) {
		reason = UTUN_DROP_SPOOFED_SOURCE;
		utun_netlink_event(ut, UTUN_EVENT_SPOOFED, peer->path.id, &peer->path.ends,
				   &ip6->saddr);
		goto drop;
	}
	reason = utun_address_destination_fault(outer, &ip6->daddr);
	if (unlikely(reason))
		goto drop;

	if (unlikely(iptunnel_pull_header(skb, outer_length, htons(ETH_P_IPV6),
					  utun_netdev_crosses(ut, outer)))) {
		reason = UTUN_DROP_NOT_SENT;
		goto drop;
	}
	skb->dev = ut->dev;
	skb->pkt_type = PACKET_HOST;
	outer_offset = skb_network_header(skb) - skb->head;
	skb_reset_mac_header(skb);
	skb_reset_network_header(skb);
	outer_ip = skb->head + outer_offset;
	if (unlikely(IP_ECN_decapsulate(outer_ip, skb) > 1)) {
		reason = UTUN_DROP_MALFORMED;
		goto drop;
	}

	size = utun_size_of(skb);
	if (unlikely(gro_cells_receive(&ut->cells, skb) != NET_RX_SUCCESS)) {
		/* It is freed, and counted as a drop of the device. */
		utun_count_drop(ut, &peer->path, UTUN_DROP_NOT_SENT);
		return;
	}
	utun_path_count_rx(&peer->path, size.packets, size.bytes);
	dev_sw_netstats_rx_add(ut->dev, size.bytes);
	return;

drop:
	utun_drop(ut, &peer->path, skb, reason, false);
}

/* A packet of nobody's path. A peer that may roam and could have sent it is moved, in a while. */
static void utun_rx_stranger(struct utun *ut, struct sk_buff *skb, const struct utun_ends *ends)
{
	const struct ipv6hdr *ip6;
	struct ipv6hdr _ip6;
	const struct utun_path *path;
	const struct utun_node *node;

	if (!utun_netlink_listened(ut) && !READ_ONCE(ut->table.roamers))
		goto drop;
	ip6 = skb_header_pointer(skb, sizeof(struct udphdr), sizeof(_ip6), &_ip6);
	if (!ip6)
		goto drop;
	node = utun_table_by_address(&ut->table, &ip6->saddr);
	if (!node)
		goto drop;
	path = &node->path;
	utun_netlink_event(ut, UTUN_EVENT_STRANGER, 0, ends, &ip6->saddr);
	if (path->flags & UTUN_PEER_F_ROAM_PORT && path->ends.transport == ends->transport &&
	    path->ends.remote == ends->remote && path->ends.local == ends->local &&
	    path->ends.local_port == ends->local_port &&
	    (u32)jiffies - utun_node_peer(node)->moved >= HZ) {
		spin_lock(&ut->move_lock);
		if (!ut->move_pending) {
			ut->move_pending = true;
			ut->move_id = path->id;
			ut->move_ends = *ends;
			schedule_work(&ut->move_work);
		}
		spin_unlock(&ut->move_lock);
	}
drop:
	utun_drop(ut, NULL, skb, UTUN_DROP_UNKNOWN_ENDPOINT, false);
}

/**
 * utun_rx_encap_rcv() - a datagram came to an attached socket
 * @sk: the socket
 * @skb: the datagram, skb->data at the UDP header, its checksum verified
 *
 * Return: 0 if the datagram was consumed, 1 if it goes on to the socket.
 */
int utun_rx_encap_rcv(struct sock *sk, struct sk_buff *skb)
{
	const struct utun_socket *us = rcu_dereference_sk_user_data(sk);
	struct utun_ends ends;
	struct utun_peer *peer;
	const u8 *head;
	u8 _head[4];
	struct utun *ut;

	if (unlikely(!us))
		return 1;
	ut = us->ut;
	head = skb_header_pointer(skb, sizeof(struct udphdr), 1, _head);
	if (unlikely(!head || head[0] >> 4 != UTUN_NIBBLE_IPV6)) {
		if (skb->len < sizeof(struct udphdr) + UTUN_TSP_HEADER)
			goto malformed;
		head = skb_header_pointer(skb, sizeof(struct udphdr), sizeof(_head), _head);
		if (head &&
		    (head[0] >> 4 == UTUN_NIBBLE_TSP ||
		     (head[0] >> 4 == UTUN_NIBBLE_LEGACY && head[3] >> 4 == UTUN_NIBBLE_TSP)))
			return 1;
		goto malformed;
	}

	ends.transport = UTUN_TRANSPORT_UDP;
	ends.local_port = udp_hdr(skb)->dest;
	ends.remote_port = udp_hdr(skb)->source;
	if (likely(skb->protocol == htons(ETH_P_IP))) {
		ends.local = ip_hdr(skb)->daddr;
		ends.remote = ip_hdr(skb)->saddr;
		peer = utun_table_by_ends(&ut->table, &ends);
		if (likely(peer)) {
			utun_rx_deliver(ut, peer, skb, sizeof(struct udphdr), sock_net(sk));
			return 0;
		}
		utun_rx_stranger(ut, skb, &ends);
		return 0;
	}
	utun_drop(ut, NULL, skb, UTUN_DROP_UNKNOWN_ENDPOINT, false);
	return 0;

malformed:
	utun_drop(ut, NULL, skb, UTUN_DROP_MALFORMED, false);
	return 0;
}

/**
 * utun_rx_err_lookup() - an ICMP error came for a datagram that an attached socket sent
 * @sk: the socket
 * @skb: the datagram as far as the error quotes it, its UDP header at skb_transport_header()
 *
 * Return: 0: it is ours. The caller has the route's MTU updated, user space does not hear of it.
 */
int utun_rx_err_lookup(struct sock *sk, struct sk_buff *skb)
{
	const struct utun_socket *us = rcu_dereference_sk_user_data(sk);
	const struct udphdr *udp = udp_hdr(skb);
	struct utun_ends ends = { .transport = UTUN_TRANSPORT_UDP };
	struct utun_peer *peer;

	if (!us || sk->sk_family != AF_INET || !utun_netlink_listened(us->ut))
		return 0;
	ends.local = ip_hdr(skb)->saddr;
	ends.remote = ip_hdr(skb)->daddr;
	ends.local_port = udp->source;
	ends.remote_port = udp->dest;
	peer = utun_table_by_ends(&us->ut->table, &ends);
	if (peer)
		utun_netlink_event(us->ut, UTUN_EVENT_UNREACHABLE, peer->path.id, &ends, NULL);
	return 0;
}

/**
 * utun_rx_gro_receive() - join datagrams that carry segments of one inner flow
 * @sk: the attached socket
 * @head: packets held so far
 * @skb: the datagram, its GRO offset behind the UDP header
 *
 * Return: a held packet that is complete, or NULL.
 */
struct sk_buff *utun_rx_gro_receive(struct sock *sk, struct list_head *head, struct sk_buff *skb)
{
	unsigned int offset = skb_gro_offset(skb);
	const struct packet_offload *ipv6;
	const u8 *first;

	first = skb_gro_header(skb, offset + 1, offset);
	if (!first || *first >> 4 != UTUN_NIBBLE_IPV6)
		goto flush;
	ipv6 = gro_find_receive_by_type(htons(ETH_P_IPV6));
	if (!ipv6)
		goto flush;
	return call_gro_receive(ipv6->callbacks.gro_receive, head, skb);

flush:
	NAPI_GRO_CB(skb)->flush |= 1;
	return NULL;
}

/**
 * utun_rx_gro_complete() - finish a joined packet
 * @sk: the attached socket
 * @skb: the packet
 * @nhoff: offset of the inner header
 *
 * Return: 0 or a negative error.
 */
int utun_rx_gro_complete(struct sock *sk, struct sk_buff *skb, int nhoff)
{
	const struct packet_offload *ipv6 = gro_find_complete_by_type(htons(ETH_P_IPV6));

	if (!ipv6)
		return -ENOENT;
	skb_set_inner_mac_header(skb, nhoff);
	return ipv6->callbacks.gro_complete(skb, nhoff);
}
