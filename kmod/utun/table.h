/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The peers of one device, found by outer path, by inner address and by id.
 *
 * Readers hold RCU. Whoever changes a table holds the device's mutex. What the find functions
 * return is valid for as long as the reader holds one of the two.
 */
#ifndef _UTUN_TABLE_H
#define _UTUN_TABLE_H

#include <linux/bitmap.h>
#include <linux/xarray.h>

#include "peer.h"

struct netlink_ext_ack;

#define UTUN_LENGTHS 128

/* The prefixes of one length. No address in them has first 64 bits outside of @low to @high. */
struct utun_length {
	u64	low;
	u64	high;
	u32	uses;
};

struct utun_table {
	struct rhashtable	ends;
	struct rhashtable	prefixes;
	struct xarray		ids;
	struct rb_root		ranges;		/* struct utun_range by address and length */
	struct utun_length	by_length[UTUN_LENGTHS];	/* by length - 1 */
	DECLARE_BITMAP(lengths, UTUN_LENGTHS);	/* those with uses; packets look for no other */
	u32			count;
	u32			generation;		/* goes up with every change */
	u32			roamers;		/* peers with UTUN_PEER_F_ROAM_PORT */
	u32			sixinfours;		/* peers with UTUN_TRANSPORT_SIXINFOUR */
};

void utun_table_setup(void);
int utun_table_init(struct utun_table *table);
void utun_table_destroy(struct utun_table *table);

struct utun_peer *utun_table_by_ends(struct utun_table *table, const struct utun_ends *ends);
struct utun_node *utun_table_by_address(struct utun_table *table, const struct in6_addr *address);
struct utun_peer *utun_table_by_id(struct utun_table *table, u32 id);

int utun_table_put(struct utun_table *table, struct utun_peer *peer, struct utun_peer *old,
		   struct netlink_ext_ack *extack);
void utun_table_remove(struct utun_table *table, struct utun_peer *peer);

#endif /* _UTUN_TABLE_H */
