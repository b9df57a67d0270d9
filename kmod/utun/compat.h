/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between kernels. Kbuild looks for features in the headers and defines UTUN_HAVE_*;
 * nothing outside of this file asks for them, and the code is written for the newest. Built and run
 * on 6.1 and 6.12; what came after and before is here from the headers of those kernels, back to
 * 5.10, and not tried.
 */
#ifndef _UTUN_COMPAT_H
#define _UTUN_COMPAT_H

#include <linux/netdevice.h>
#include <linux/udp.h>
#include <net/genetlink.h>
#include <net/inet_sock.h>
#include <net/ip_tunnels.h>
#include <net/rtnetlink.h>
#include <net/udp_tunnel.h>
#ifdef UTUN_HAVE_GRO_H
#include <net/gro.h>
#endif

/* 6.15: the arguments of newlink became a struct. UTUN_NEWLINK_NET: where the request was made. */
#ifdef UTUN_HAVE_NEWLINK_PARAMS
#define UTUN_NEWLINK_ARGS \
	struct net_device *dev, struct rtnl_newlink_params *params, struct netlink_ext_ack *extack
#define UTUN_NEWLINK_NET rtnl_newlink_link_net(params)
#else
#define UTUN_NEWLINK_ARGS \
	struct net *src_net, struct net_device *dev, struct nlattr *tb[], struct nlattr *data[], \
	struct netlink_ext_ack *extack
#define UTUN_NEWLINK_NET src_net
#endif

/* 6.12: LLTX became a bit of its own. */
static inline void utun_compat_lltx(struct net_device *dev)
{
#ifdef UTUN_HAVE_LLTX_BIT
	dev->lltx = true;
#else
	dev->features |= NETIF_F_LLTX;
#endif
}

/* 6.9, and stable branches: the core allocates and frees dev->tstats. Before, the device does. */
static inline int utun_compat_stats_init(struct net_device *dev)
{
#ifdef UTUN_HAVE_PCPU_STAT_TYPE
	dev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	return 0;
#else
	dev->tstats = netdev_alloc_pcpu_stats(struct pcpu_sw_netstats);
	return dev->tstats ? 0 : -ENOMEM;
#endif
}

static inline void utun_compat_stats_free(struct net_device *dev)
{
#ifndef UTUN_HAVE_PCPU_STAT_TYPE
	free_percpu(dev->tstats);
#endif
}

/* 5.11: the general form of what tunnels had. */
#ifndef UTUN_HAVE_GET_TSTATS64
#define dev_get_tstats64 ip_tunnel_get_stats64
#endif

/* 5.18: these became per-CPU. */
#ifndef UTUN_HAVE_CORE_STATS
static inline void dev_core_stats_rx_dropped_inc(struct net_device *dev)
{
	atomic_long_inc(&dev->rx_dropped);
}

static inline void dev_core_stats_tx_dropped_inc(struct net_device *dev)
{
	atomic_long_inc(&dev->tx_dropped);
}
#endif

/* 6.1: one function for the two. */
#ifndef UTUN_HAVE_GRO_HEADER
static inline void *skb_gro_header(struct sk_buff *skb, unsigned int hlen, unsigned int offset)
{
	if (skb_gro_header_hard(skb, hlen))
		return skb_gro_header_slow(skb, hlen, offset);
	return skb_gro_header_fast(skb, offset);
}
#endif

/* 6.1: types of attributes in network order. */
#ifndef UTUN_HAVE_NLA_BE
#define NLA_BE16 NLA_U16
#define NLA_BE32 NLA_U32
#endif

/* 6.6: flags of inet sockets became atomic bits. */
static inline void utun_compat_mc_loop(struct sock *sk)
{
#ifdef UTUN_HAVE_INET_FLAGS
	inet_set_bit(MC_LOOP, sk);
#else
	inet_sk(sk)->mc_loop = 1;
#endif
}

/* 6.6: the attributes of a dump request moved. */
static inline struct nlattr **utun_compat_dump_attrs(struct netlink_callback *cb)
{
#ifdef UTUN_HAVE_GENL_INFO_DUMP
	return genl_info_dump(cb)->attrs;
#else
	return genl_dumpit_info(cb)->attrs;
#endif
}

/* 6.1: which operations are new enough for strict checks. */
#ifdef UTUN_HAVE_RESV_START_OP
#define UTUN_STRICT_FROM(op) .resv_start_op = (op),
#else
#define UTUN_STRICT_FROM(...)
#endif

/* 6.7, and stable branches: who may listen to a group. Before, everybody may. */
#ifdef UTUN_HAVE_GENL_MCAST_FLAGS
#define UTUN_MCGRP_ADMIN .flags = GENL_MCAST_CAP_NET_ADMIN,
#else
#define UTUN_MCGRP_ADMIN
#endif

/*
 * Later than 6.18: a struct sock instead of a struct socket.
 *
 * 6.16: the core counts the gro_receive functions of tunnel sockets, and calls the only one
 * directly. It counts a socket's when it is first set up and not again, so we do.
 */
static inline void utun_compat_setup_sock(struct socket *sock, struct udp_tunnel_sock_cfg *config)
{
#ifdef UTUN_HAVE_TUNNEL_GRO
	bool again = udp_test_bit(ENCAP_ENABLED, sock->sk);
#endif

#ifdef UTUN_HAVE_TUNNEL_SOCK_SK
	setup_udp_tunnel_sock(sock_net(sock->sk), sock->sk, config);
#else
	setup_udp_tunnel_sock(sock_net(sock->sk), sock, config);
#endif
#ifdef UTUN_HAVE_TUNNEL_GRO
	if (again)
		udp_tunnel_update_gro_rcv(sock->sk, true);
#endif
}

/* The end of that count, and of the socket in the core's list; gro_receive must still be set. */
static inline void utun_compat_gro_forget(struct sock *sk)
{
#ifdef UTUN_HAVE_TUNNEL_GRO
	udp_tunnel_cleanup_gro(sk);
#endif
}

/* 6.17: one more argument. */
static inline void utun_compat_udp_xmit(struct rtable *rt, struct sock *sk, struct sk_buff *skb,
					__be32 src, __be32 dst, __u8 tos, __u8 ttl, __be16 df,
					__be16 src_port, __be16 dst_port, bool xnet, bool nocheck)
{
#ifdef UTUN_HAVE_UDP_XMIT_IPCB
	udp_tunnel_xmit_skb(rt, sk, skb, src, dst, tos, ttl, df, src_port, dst_port, xnet, nocheck,
			    0);
#else
	udp_tunnel_xmit_skb(rt, sk, skb, src, dst, tos, ttl, df, src_port, dst_port, xnet, nocheck);
#endif
}

static inline void utun_compat_ip_xmit(struct rtable *rt, struct sk_buff *skb, __be32 src,
				       __be32 dst, __u8 proto, __u8 tos, __u8 ttl, __be16 df,
				       bool xnet)
{
#ifdef UTUN_HAVE_IPTUNNEL_XMIT_IPCB
	iptunnel_xmit(NULL, rt, skb, src, dst, proto, tos, ttl, df, xnet, 0);
#else
	iptunnel_xmit(NULL, rt, skb, src, dst, proto, tos, ttl, df, xnet);
#endif
}

#endif /* _UTUN_COMPAT_H */
