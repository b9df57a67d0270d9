// SPDX-License-Identifier: GPL-2.0
/*
 * Two hash tables that packets look things up in, and two ordered ones for netlink.
 *
 * Outer paths are chosen by strangers, so their hash is keyed with a secret. Inner addresses are
 * found length by length, longest first, and only among lengths in use, of which there are two or
 * three. No two peers have an inner address in common; that is what lets a source be held against
 * the peer's own prefixes alone.
 */
#include <linux/netlink.h>
#include <linux/random.h>
#include <linux/siphash.h>
#include <net/ipv6.h>

#include "table.h"

static siphash_key_t utun_table_key __ro_after_init;

static u32 utun_table_hash_ends(const void *data, u32 len, u32 seed)
{
	const struct utun_ends *ends = data;

	return siphash_4u32((__force u32)ends->local, (__force u32)ends->remote,
			    (__force u32)ends->local_port << 16 | (__force u32)ends->remote_port,
			    ends->transport ^ seed, &utun_table_key);
}

static const struct rhashtable_params utun_table_ends_params = {
	.key_len = sizeof(struct utun_ends),
	.key_offset = offsetof(struct utun_peer, ends),
	.head_offset = offsetof(struct utun_peer, hash),
	.hashfn = utun_table_hash_ends,
	.automatic_shrinking = true,
};

struct utun_table_prefix_key {
	struct in6_addr address;
	u32 length;
};

static const struct rhashtable_params utun_table_prefix_params = {
	.key_len = sizeof(struct utun_table_prefix_key),
	.key_offset = offsetof(struct utun_node, address),
	.head_offset = offsetof(struct utun_node, hash),
	.automatic_shrinking = true,
};

/**
 * utun_table_setup() - draw the secret of the hashes, once
 */
void __init utun_table_setup(void)
{
	BUILD_BUG_ON(sizeof(struct utun_ends) != 16);
	BUILD_BUG_ON(offsetof(struct utun_node, length) !=
		     offsetof(struct utun_node, address) +
			     offsetof(struct utun_table_prefix_key, length));
	get_random_bytes(&utun_table_key, sizeof(utun_table_key));
}

/**
 * utun_table_init() - make an empty table
 * @table: zeroed memory
 *
 * Return: 0, or a negative error with nothing left to undo.
 */
int utun_table_init(struct utun_table *table)
{
	int ret;

	ret = rhashtable_init(&table->ends, &utun_table_ends_params);
	if (ret)
		return ret;
	ret = rhashtable_init(&table->prefixes, &utun_table_prefix_params);
	if (ret)
		goto err_destroy_ends;
	xa_init(&table->ids);
	table->ranges = RB_ROOT;
	return 0;

err_destroy_ends:
	rhashtable_destroy(&table->ends);
	return ret;
}

/**
 * utun_table_destroy() - free an empty table that nobody can see
 * @table: the table
 */
void utun_table_destroy(struct utun_table *table)
{
	xa_destroy(&table->ids);
	rhashtable_destroy(&table->prefixes);
	rhashtable_destroy(&table->ends);
}

/**
 * utun_table_by_ends() - the peer at the other end of an outer path
 * @table: the table
 * @ends: the path
 *
 * Return: the peer, or NULL.
 */
struct utun_peer *utun_table_by_ends(struct utun_table *table, const struct utun_ends *ends)
{
	return rhashtable_lookup(&table->ends, ends, utun_table_ends_params);
}

static struct utun_node *utun_table_node(struct utun_table *table, const struct in6_addr *address,
					 u32 length)
{
	struct utun_table_prefix_key key = { .length = length };

	ipv6_addr_prefix(&key.address, address, length);
	return rhashtable_lookup(&table->prefixes, &key, utun_table_prefix_params);
}

/**
 * utun_table_by_address() - the peer with the longest prefix that an inner address is in
 * @table: the table
 * @address: the address
 *
 * Return: the peer, or NULL.
 */
struct utun_peer *utun_table_by_address(struct utun_table *table, const struct in6_addr *address)
{
	int word, bit;

	for (word = BITS_TO_LONGS(UTUN_LENGTHS) - 1; word >= 0; word--) {
		unsigned long bits = READ_ONCE(table->lengths[word]);

		while (bits) {
			struct utun_node *node;

			bit = __fls(bits);
			node = utun_table_node(table, address, word * BITS_PER_LONG + bit + 1);
			if (node)
				return node->peer;
			bits ^= BIT(bit);
		}
	}
	return NULL;
}

/**
 * utun_table_by_id() - the peer of an id
 * @table: the table
 * @id: the id
 *
 * Return: the peer, or NULL.
 */
struct utun_peer *utun_table_by_id(struct utun_table *table, u32 id)
{
	return xa_load(&table->ids, id);
}

static int utun_table_compare(const struct in6_addr *address, u32 length,
			      const struct utun_node *node)
{
	int order = memcmp(address, &node->address, sizeof(*address));

	return order ?: (int)length - (int)node->length;
}

static void utun_table_range_add(struct utun_table *table, struct utun_node *node)
{
	struct rb_node **link = &table->ranges.rb_node, *parent = NULL;

	while (*link) {
		struct utun_node *other = rb_entry(*link, struct utun_node, range);

		parent = *link;
		link = utun_table_compare(&node->address, node->length, other) < 0 ?
			       &parent->rb_left :
			       &parent->rb_right;
	}
	rb_link_node(&node->range, parent, link);
	rb_insert_color(&node->range, &table->ranges);
}

/* The first node at or behind an address. */
static struct rb_node *utun_table_range_from(struct utun_table *table,
					     const struct in6_addr *address)
{
	struct rb_node *at = table->ranges.rb_node, *found = NULL;

	while (at) {
		if (utun_table_compare(address, 0, rb_entry(at, struct utun_node, range)) <= 0) {
			found = at;
			at = at->rb_left;
		} else {
			at = at->rb_right;
		}
	}
	return found;
}

/* Whether a peer of another id than @peer has an address of @node. */
static bool utun_table_taken(struct utun_table *table, const struct utun_node *node, u32 id)
{
	struct rb_node *at;
	u32 length;

	/* A prefix around it, or the same. */
	for_each_set_bit(length, table->lengths, node->length) {
		struct utun_node *around = utun_table_node(table, &node->address, length + 1);

		if (around && around->peer->id != id)
			return true;
	}
	/* A prefix in it. */
	for (at = utun_table_range_from(table, &node->address); at; at = rb_next(at)) {
		struct utun_node *inside = rb_entry(at, struct utun_node, range);

		if (!ipv6_prefix_equal(&inside->address, &node->address, node->length))
			break;
		if (inside->peer->id != id)
			return true;
	}
	return false;
}

static void utun_table_length_use(struct utun_table *table, u32 length)
{
	if (!table->length_uses[length - 1]++)
		set_bit(length - 1, table->lengths);
}

static void utun_table_length_drop(struct utun_table *table, u32 length)
{
	if (!--table->length_uses[length - 1])
		clear_bit(length - 1, table->lengths);
}

/* The node of @peer, which may be NULL, with the prefix of @node. */
static struct utun_node *utun_table_same_node(struct utun_peer *peer, const struct utun_node *node)
{
	int at;

	for (at = 0; peer && at < peer->n_nodes; at++)
		if (!utun_table_compare(&node->address, node->length, &peer->nodes[at]))
			return &peer->nodes[at];
	return NULL;
}

static u32 utun_table_roams(const struct utun_peer *peer)
{
	return peer && peer->flags & UTUN_PEER_F_ROAM_PORT;
}

static int utun_table_check(struct utun_table *table, struct utun_peer *peer,
			    struct netlink_ext_ack *extack)
{
	struct utun_peer *other;
	int at, ret = 0;

	rcu_read_lock();
	other = utun_table_by_ends(table, &peer->ends);
	if (other && other->id != peer->id) {
		NL_SET_ERR_MSG_MOD(extack, "another peer has this outer path");
		ret = -EADDRINUSE;
	}
	for (at = 0; !ret && at < peer->n_nodes; at++) {
		if (utun_table_taken(table, &peer->nodes[at], peer->id)) {
			NL_SET_ERR_MSG_MOD(extack, "another peer has an inner address of this one");
			ret = -EEXIST;
		}
	}
	rcu_read_unlock();
	return ret;
}

/**
 * utun_table_put() - let packets see a peer
 * @table: the table
 * @peer: the peer; the table owns it after success
 * @old: the peer of its id that is in the table, which the caller owns after success, or NULL
 * @extack: takes the reason of a refusal
 *
 * What can fail comes first, then new peers take the places of old ones, then what only the old one
 * has goes.
 *
 * Return: 0, or a negative error with the table as it was.
 */
int utun_table_put(struct utun_table *table, struct utun_peer *peer, struct utun_peer *old,
		   struct netlink_ext_ack *extack)
{
	bool same_ends = old && !memcmp(&old->ends, &peer->ends, sizeof(old->ends));
	int at, undo, ret;

	ret = utun_table_check(table, peer, extack);
	if (ret)
		return ret;
	ret = old ? 0 : xa_reserve(&table->ids, peer->id, GFP_KERNEL);
	if (ret)
		return ret;

	for (at = 0; at < peer->n_nodes; at++) {
		if (utun_table_same_node(old, &peer->nodes[at]))
			continue;
		ret = rhashtable_insert_fast(&table->prefixes, &peer->nodes[at].hash,
					     utun_table_prefix_params);
		if (ret)
			goto err_remove_nodes;
		utun_table_length_use(table, peer->nodes[at].length);
	}
	if (!same_ends) {
		ret = rhashtable_insert_fast(&table->ends, &peer->hash, utun_table_ends_params);
		if (ret)
			goto err_remove_nodes;
	}

	xa_store(&table->ids, peer->id, peer, GFP_KERNEL);
	if (same_ends)
		rhashtable_replace_fast(&table->ends, &old->hash, &peer->hash,
					utun_table_ends_params);
	for (at = 0; at < peer->n_nodes; at++) {
		struct utun_node *node = &peer->nodes[at], *same = utun_table_same_node(old, node);

		if (same) {
			rhashtable_replace_fast(&table->prefixes, &same->hash, &node->hash,
						utun_table_prefix_params);
			rb_replace_node(&same->range, &node->range, &table->ranges);
		} else {
			utun_table_range_add(table, node);
		}
	}

	if (old && !same_ends)
		rhashtable_remove_fast(&table->ends, &old->hash, utun_table_ends_params);
	for (at = 0; old && at < old->n_nodes; at++) {
		if (utun_table_same_node(peer, &old->nodes[at]))
			continue;
		rhashtable_remove_fast(&table->prefixes, &old->nodes[at].hash,
				       utun_table_prefix_params);
		rb_erase(&old->nodes[at].range, &table->ranges);
		utun_table_length_drop(table, old->nodes[at].length);
	}
	table->count += !old;
	table->roamers += utun_table_roams(peer) - utun_table_roams(old);
	table->generation++;
	return 0;

err_remove_nodes:
	for (undo = 0; undo < at; undo++) {
		if (utun_table_same_node(old, &peer->nodes[undo]))
			continue;
		rhashtable_remove_fast(&table->prefixes, &peer->nodes[undo].hash,
				       utun_table_prefix_params);
		utun_table_length_drop(table, peer->nodes[undo].length);
	}
	if (!old)
		xa_release(&table->ids, peer->id);
	NL_SET_ERR_MSG_MOD(extack, "no memory for the tables");
	return ret;
}

/**
 * utun_table_remove() - hide a peer from packets
 * @table: the table
 * @peer: the peer; the caller owns it from now on, and frees it by RCU
 */
void utun_table_remove(struct utun_table *table, struct utun_peer *peer)
{
	int at;

	xa_erase(&table->ids, peer->id);
	rhashtable_remove_fast(&table->ends, &peer->hash, utun_table_ends_params);
	for (at = 0; at < peer->n_nodes; at++) {
		rhashtable_remove_fast(&table->prefixes, &peer->nodes[at].hash,
				       utun_table_prefix_params);
		rb_erase(&peer->nodes[at].range, &table->ranges);
		utun_table_length_drop(table, peer->nodes[at].length);
	}
	table->count--;
	table->roamers -= utun_table_roams(peer);
	table->generation++;
}
