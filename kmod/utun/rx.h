/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From outer packets to inner ones; the hooks of attached sockets.
 */
#ifndef _UTUN_RX_H
#define _UTUN_RX_H

#include <linux/skbuff.h>

struct net;
struct sock;
struct utun;
struct utun_peer;

int utun_rx_encap_rcv(struct sock *sk, struct sk_buff *skb);
int utun_rx_err_lookup(struct sock *sk, struct sk_buff *skb);
struct sk_buff *utun_rx_gro_receive(struct sock *sk, struct list_head *head, struct sk_buff *skb);
int utun_rx_gro_complete(struct sock *sk, struct sk_buff *skb, int nhoff);
void utun_rx_deliver(struct utun *ut, struct utun_peer *peer, struct sk_buff *skb,
		     unsigned int outer_length, struct net *outer);

#endif /* _UTUN_RX_H */
