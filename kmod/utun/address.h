/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Judging inner addresses. 0 stands for "nothing against it", else it is the reason to drop.
 */
#ifndef _UTUN_ADDRESS_H
#define _UTUN_ADDRESS_H

#include <net/ipv6.h>

#include "uapi/utun.h"

struct utun_peer;

enum utun_drop utun_address_source_fault(struct net *outer, const struct in6_addr *address);
enum utun_drop utun_address_destination_fault(struct net *outer, const struct in6_addr *address);
bool utun_address_is_of(const struct in6_addr *address, const struct utun_peer *peer);

#endif /* _UTUN_ADDRESS_H */
