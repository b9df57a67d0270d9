/* SPDX-License-Identifier: GPL-2.0 */
/*
 * UDP sockets of user space that a device takes its packets out of.
 */
#ifndef _UTUN_SOCKET_H
#define _UTUN_SOCKET_H

#include <linux/rcupdate.h>
#include <linux/types.h>

struct netlink_ext_ack;
struct sock;
struct utun;
struct utun_ends;

struct utun_socket {
	struct sock		*sk;		/* held */
	struct utun		*ut;		/* detaches its sockets before it goes */
	struct list_head	node;		/* under utun_socket_lock, read under RCU */
	u32			number;		/* of the attachment, from 1 on */
};

int utun_socket_attach(struct utun *ut, u32 fd, struct netlink_ext_ack *extack);
int utun_socket_detach(struct utun *ut, u32 fd, struct netlink_ext_ack *extack);
void utun_socket_detach_all(struct utun *ut);
void utun_socket_drain(void);
struct utun_socket *utun_socket_of(struct utun *ut, const struct utun_ends *ends);

#endif /* _UTUN_SOCKET_H */
