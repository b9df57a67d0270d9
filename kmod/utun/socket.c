// SPDX-License-Identifier: GPL-2.0
/*
 * Attaching and detaching UDP sockets. Not here: what is done with their datagrams (rx.c).
 *
 * A socket belongs to user space, which closes it when it likes. So there are two ways for it to
 * go, a request and encap_destroy(), and both end in utun_socket_undo() under utun_socket_lock.
 */
#include <linux/file.h>
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/stop_machine.h>
#include <net/sock.h>
#include <net/udp.h>
#include <net/udp_tunnel.h>

#include "compat.h"
#include "netdev.h"
#include "netlink.h"
#include "rx.h"
#include "socket.h"

/* A value of udp_sock.encap_type that nothing else has; user space can set those up to 7. */
#define UTUN_ENCAP_TYPE 117

/* Protects the sockets of all devices and their sk_user_data. Outside of lock_sock(). */
static DEFINE_MUTEX(utun_socket_lock);

/* Of the last attachment, under utun_socket_lock. */
static u32 utun_socket_number;

static void utun_socket_ends(const struct sock *sk, struct utun_ends *ends)
{
	memset(ends, 0, sizeof(*ends));
	ends->transport = UTUN_TRANSPORT_UDP;
	ends->local = sk->sk_family == AF_INET ? inet_sk(sk)->inet_rcv_saddr : 0;
	ends->local_port = inet_sk(sk)->inet_sport;
}

static int utun_socket_forget_gro(void *data)
{
	struct udp_sock *up = data;

	WRITE_ONCE(up->gro_receive, NULL);
	WRITE_ONCE(up->gro_complete, NULL);
	return 0;
}

/* Undoes setup_udp_tunnel_sock(). @closing: nobody uses the socket after this. */
static void utun_socket_undo(struct utun_socket *us, bool closing)
{
	struct sock *sk = us->sk;
	struct udp_sock *up = udp_sk(sk);

	lockdep_assert_held(&utun_socket_lock);
	us->ut->n_sockets--;
	list_del_rcu(&us->node);
	/* The core would do so next. */
	if (closing)
		sk->sk_prot->unhash(sk);

	lock_sock(sk);
	utun_compat_mc_loop(sk);
	inet_dec_convert_csum(sk);
	utun_compat_gro_forget(sk);
	rcu_assign_sk_user_data(sk, NULL);
	WRITE_ONCE(up->encap_type, 0);
	WRITE_ONCE(up->encap_rcv, NULL);
	WRITE_ONCE(up->encap_err_lookup, NULL);
	WRITE_ONCE(up->encap_destroy, NULL);
	release_sock(sk);

	synchronize_net();
	/*
	 * The core reads gro_receive once to see that it is there and once more to call it, so it
	 * must not go while a packet is between the two. Packets do not find a closed socket any
	 * more. Where all processors can stop, outside of softirqs, none of them has such a packet.
	 */
	if (closing)
		utun_socket_forget_gro(up);
	else
		stop_machine(utun_socket_forget_gro, up, NULL);
	sock_put(sk);
	kfree(us);
}

/* close(), in process context, without the socket's lock. */
static void utun_socket_encap_destroy(struct sock *sk)
{
	struct utun_socket *us;
	struct utun_ends ends;

	mutex_lock(&utun_socket_lock);
	us = rcu_dereference_protected(__sk_user_data(sk), lockdep_is_held(&utun_socket_lock));
	if (us) {
		utun_socket_ends(sk, &ends);
		utun_netlink_event(us->ut, UTUN_EVENT_SOCKET_GONE, 0, &ends, NULL);
		utun_socket_undo(us, true);
	}
	mutex_unlock(&utun_socket_lock);
}

static int utun_socket_check(const struct utun *ut, const struct sock *sk,
			     struct netlink_ext_ack *extack)
{
	const struct utun_socket *us;

	lockdep_assert_held(&utun_socket_lock);
	if (sk->sk_protocol != IPPROTO_UDP || sk->sk_type != SOCK_DGRAM ||
	    (sk->sk_family != AF_INET && sk->sk_family != AF_INET6)) {
		NL_SET_ERR_MSG_MOD(extack, "the file is not a UDP socket");
		return -EPROTOTYPE;
	}
	if (!inet_sk(sk)->inet_num) {
		NL_SET_ERR_MSG_MOD(extack, "the socket is not bound");
		return -EDESTADDRREQ;
	}
	if (sk->sk_state == TCP_ESTABLISHED) {
		NL_SET_ERR_MSG_MOD(extack, "the socket is connected, so it hears one peer only");
		return -EISCONN;
	}
	if (udp_sk(sk)->encap_type == UTUN_ENCAP_TYPE) {
		us = rcu_dereference_protected(__sk_user_data(sk),
					       lockdep_is_held(&utun_socket_lock));
		if (us && us->ut == ut) {
			NL_SET_ERR_MSG_MOD(extack, "the socket is attached to this device already");
			return -EALREADY;
		}
	}
	if (sk->sk_user_data || udp_sk(sk)->encap_type) {
		NL_SET_ERR_MSG_MOD(extack, "the socket is attached to something already");
		return -EBUSY;
	}
	return 0;
}

/**
 * utun_socket_attach() - take the packets of a UDP socket from now on
 * @ut: the device, its lock held
 * @fd: a file descriptor of the calling process
 * @extack: takes the reason of a refusal
 *
 * Return: 0 or a negative error.
 */
int utun_socket_attach(struct utun *ut, u32 fd, struct netlink_ext_ack *extack)
{
	struct udp_tunnel_sock_cfg config = {
		.encap_type = UTUN_ENCAP_TYPE,
		.encap_rcv = utun_rx_encap_rcv,
		.encap_err_lookup = utun_rx_err_lookup,
		.encap_destroy = utun_socket_encap_destroy,
		.gro_receive = utun_rx_gro_receive,
		.gro_complete = utun_rx_gro_complete,
	};
	struct utun_socket *us;
	struct socket *sock;
	int ret;

	lockdep_assert_held(&ut->lock);
	sock = sockfd_lookup(fd, &ret);
	if (!sock) {
		NL_SET_ERR_MSG_MOD(extack, "the file descriptor is not a socket");
		return ret;
	}
	us = kzalloc(sizeof(*us), GFP_KERNEL);
	if (!us) {
		ret = -ENOMEM;
		goto out_put_file;
	}
	us->sk = sock->sk;
	us->ut = ut;
	config.sk_user_data = us;

	mutex_lock(&utun_socket_lock);
	lock_sock(us->sk);
	ret = utun_socket_check(ut, us->sk, extack);
	if (!ret) {
		sock_hold(us->sk);
		us->number = ++utun_socket_number;
		utun_compat_setup_sock(sock, &config);
		list_add_tail_rcu(&us->node, &ut->sockets);
		ut->n_sockets++;
	}
	release_sock(us->sk);
	mutex_unlock(&utun_socket_lock);
	if (ret)
		kfree(us);

out_put_file:
	sockfd_put(sock);
	return ret;
}

/**
 * utun_socket_detach() - make a socket an ordinary one again
 * @ut: the device, its lock held
 * @fd: a file descriptor of the calling process
 * @extack: takes the reason of a refusal
 *
 * Return: 0 or a negative error.
 */
int utun_socket_detach(struct utun *ut, u32 fd, struct netlink_ext_ack *extack)
{
	struct utun_socket *us;
	struct socket *sock;
	int ret;

	lockdep_assert_held(&ut->lock);
	sock = sockfd_lookup(fd, &ret);
	if (!sock) {
		NL_SET_ERR_MSG_MOD(extack, "the file descriptor is not a socket");
		return ret;
	}
	ret = -ENOENT;
	mutex_lock(&utun_socket_lock);
	list_for_each_entry(us, &ut->sockets, node) {
		if (us->sk == sock->sk) {
			utun_socket_undo(us, false);
			ret = 0;
			break;
		}
	}
	mutex_unlock(&utun_socket_lock);
	if (ret)
		NL_SET_ERR_MSG_MOD(extack, "the socket is not attached to this device");
	sockfd_put(sock);
	return ret;
}

/**
 * utun_socket_detach_all() - let go of all sockets of a device that goes
 * @ut: the device
 */
void utun_socket_detach_all(struct utun *ut)
{
	struct utun_socket *us, *next;

	mutex_lock(&utun_socket_lock);
	list_for_each_entry_safe(us, next, &ut->sockets, node)
		utun_socket_undo(us, false);
	mutex_unlock(&utun_socket_lock);
}

/**
 * utun_socket_drain() - wait for whoever is closing a socket that was attached
 *
 * The core may have found utun_socket_encap_destroy() before it was taken back, and nothing counts
 * those who then call it. After this none is in it, if no socket is attached.
 */
void utun_socket_drain(void)
{
	/* Who waited for the lock runs now, and is through when it sleeps or leaves the kernel. */
	mutex_lock(&utun_socket_lock);
	mutex_unlock(&utun_socket_lock);
	synchronize_rcu_tasks();
}

/**
 * utun_socket_of() - the socket that packets of an outer path leave from
 * @ut: the device; RCU held
 * @ends: the path
 *
 * Return: the socket, or NULL if none is attached.
 */
struct utun_socket *utun_socket_of(struct utun *ut, const struct utun_ends *ends)
{
	struct utun_socket *us;

	list_for_each_entry_rcu(us, &ut->sockets, node) {
		const struct sock *sk = us->sk;

		if (inet_sk(sk)->inet_sport != ends->local_port)
			continue;
		if (sk->sk_family == AF_INET ?
			    !inet_sk(sk)->inet_rcv_saddr ||
				    inet_sk(sk)->inet_rcv_saddr == ends->local :
			    !ipv6_only_sock(sk) && ipv6_addr_any(&sk->sk_v6_rcv_saddr))
			return us;
	}
	return NULL;
}
