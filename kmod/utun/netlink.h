/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Requests, answers and events by generic netlink.
 */
#ifndef _UTUN_NETLINK_H
#define _UTUN_NETLINK_H

#include <linux/in6.h>

#include "uapi/utun.h"

struct utun;
struct utun_ends;

int utun_netlink_register(void);
void utun_netlink_unregister(void);
bool utun_netlink_listened(const struct utun *ut);
void utun_netlink_event(struct utun *ut, enum utun_event event, u32 id,
			const struct utun_ends *ends, const struct in6_addr *inner);

#endif /* _UTUN_NETLINK_H */
