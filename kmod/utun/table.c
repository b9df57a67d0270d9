// SPDX-License-Identifier: GPL-2.0
/*
 * Two hash tables that packets look things up in, and two ordered ones for netlink.
 *
 * Outer paths are chosen by strangers, so their hash is keyed with a secret. Inner addresses are
 * found length by length, longest first, and only among lengths in use, of which there are two or
 * three; those of a length are in few pools, so a comparison with the lowest and the highest spares
 * most packets the lengths that are not theirs. No two peers have an inner address in common; that
 * is what lets a source be held against the peer's own prefixes alone.
 */
#include <linux/netlink.h>
#include <linux/random.h>
#include <linux/siphash.h>
#include <net/ipv6.h>

#include "table.h"

static hsiphash_key_t utun_table_key __ro_after_init;

static u32 utun_table_hash_ends(const void *data, u32 len, u32 seed)
{
	const struct utun_ends *ends = data;

	return hsiphash_4u32((__force u32)ends->local, (__force u32)ends->remote,
			     (__force u32)ends->local_port << 16 | (__force u32)ends->remote_port,
			     ends->transport ^ seed, &utun_table_key);
}

/* The octets of the path are two words. Return: 0 if they are those of the peer @obj. */
static int utun_table_cmp_ends(struct rhashtable_compare_arg *arg, const void *obj)
{
	const struct utun_peer *peer = obj;
	const u64 *mine = (const u64 *)&peer->path.ends, *key = arg->key;

	/* The source will be held against these next. */
	prefetch(&peer->nodes[0]);
	prefetch(&peer->nodes[1]);
	return ((mine[0] ^ key[0]) | (mine[1] ^ key[1])) != 0;
}

static const struct rhashtable_params utun_table_ends_params = {
	.key_len = sizeof(struct utun_ends),
	.key_offset = offsetof(struct utun_peer, path.ends),
	.head_offset = offsetof(struct utun_peer, hash),
	.hashfn = utun_table_hash_ends,
	.obj_cmpfn = utun_table_cmp_ends,
	.automatic_shrinking = true,
};

struct utun_table_prefix_key {
	struct in6_addr address;
	u32 length;
};

/* Return: 0 if the prefix is that of the node @obj. */
static int utun_table_cmp_prefix(struct rhashtable_compare_arg *arg, const void *obj)
{
	const struct utun_table_prefix_key *key = arg->key;
	const struct utun_node *node = obj;

	return node->length != key->length || !ipv6_addr_equal(&node->address, &key->address);
}

static const struct rhashtable_params utun_table_prefix_params = {
	.key_len = sizeof(struct utun_table_prefix_key),
	.key_offset = offsetof(struct utun_node, address),
	.head_offset = offsetof(struct utun_node, hash),
	.obj_cmpfn = utun_table_cmp_prefix,
	.automatic_shrinking = true,
};

/**
 * utun_table_setup() - draw the secret of the hashes, once
 */
void __init utun_table_setup(void)
{
	BUILD_BUG_ON(sizeof(struct utun_ends) != 16 || sizeof(struct utun_peer) != 64);
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

/* The first 64 bits, as a number. */
static u64 utun_table_high(const struct in6_addr *address)
{
	return (u64)ntohl(address->s6_addr32[0]) << 32 | ntohl(address->s6_addr32[1]);
}

static struct utun_node *utun_table_node(struct utun_table *table, const struct in6_addr *address,
					 u32 length)
{
	struct utun_table_prefix_key key = { .address = *address, .length = length };
	u32 word = length / 32;

	if (length < 128) {
		key.address.s6_addr32[word] &= htonl(~(~0U >> (length % 32)));
		while (++word < 4)
			key.address.s6_addr32[word] = 0;
	}
	return rhashtable_lookup(&table->prefixes, &key, utun_table_prefix_params);
}

/**
 * utun_table_by_address() - the longest prefix that an inner address is in
 * @table: the table
 * @address: the address
 *
 * Return: the node of a peer, or NULL.
 */
struct utun_node *utun_table_by_address(struct utun_table *table, const struct in6_addr *address)
{
	u64 high = utun_table_high(address);
	int word;

	for (word = BITS_TO_LONGS(UTUN_LENGTHS) - 1; word >= 0; word--) {
		unsigned long bits = READ_ONCE(table->lengths[word]);

		while (bits) {
			int bit = __fls(bits), length = word * BITS_PER_LONG + bit + 1;
			const struct utun_length *those = &table->by_length[length - 1];
			struct utun_node *node;

			bits ^= BIT(bit);
			if (high < READ_ONCE(those->low) || high > READ_ONCE(those->high))
				continue;
			node = utun_table_node(table, address, length);
			if (node)
				return node;
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

static struct utun_node *utun_table_of_range(struct rb_node *rb)
{
	return rb_entry(rb, struct utun_range, rb)->node;
}

static void utun_table_range_add(struct utun_table *table, struct utun_node *node)
{
	struct rb_node **link = &table->ranges.rb_node, *parent = NULL;
	struct rb_node *mine = &utun_node_range(node)->rb;

	while (*link) {
		parent = *link;
		link = utun_table_compare(&node->address, node->length,
					  utun_table_of_range(parent)) < 0 ?
			       &parent->rb_left :
			       &parent->rb_right;
	}
	rb_link_node(mine, parent, link);
	rb_insert_color(mine, &table->ranges);
}

/* The first node at or behind an address. */
static struct rb_node *utun_table_range_from(struct utun_table *table,
					     const struct in6_addr *address)
{
	struct rb_node *at = table->ranges.rb_node, *found = NULL;

	while (at) {
		if (utun_table_compare(address, 0, utun_table_of_range(at)) <= 0) {
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

		if (around && around->path.id != id)
			return true;
	}
	/* A prefix in it. */
	for (at = utun_table_range_from(table, &node->address); at; at = rb_next(at)) {
		struct utun_node *inside = utun_table_of_range(at);

		if (!ipv6_prefix_equal(&inside->address, &node->address, node->length))
			break;
		if (inside->path.id != id)
			return true;
	}
	return false;
}

/* Before the node can be found. */
static void utun_table_length_use(struct utun_table *table, const struct utun_node *node)
{
	struct utun_length *those = &table->by_length[node->length - 1];
	u64 low = utun_table_high(&node->address), high = low;

	if (node->length < 64)
		high |= ~0ULL >> node->length;
	if (!those->uses++) {
		WRITE_ONCE(those->low, low);
		WRITE_ONCE(those->high, high);
		set_bit(node->length - 1, table->lengths);
	}
	if (low < those->low)
		WRITE_ONCE(those->low, low);
	if (high > those->high)
		WRITE_ONCE(those->high, high);
}

static void utun_table_length_drop(struct utun_table *table, u32 length)
{
	if (!--table->by_length[length - 1].uses)
		clear_bit(length - 1, table->lengths);
}

/* The node of @peer, which may be NULL, with the prefix of @node. */
static struct utun_node *utun_table_same_node(struct utun_peer *peer, const struct utun_node *node)
{
	int at;

	for (at = 0; peer && at < peer->path.n_nodes; at++)
		if (!utun_table_compare(&node->address, node->length, &peer->nodes[at]))
			return &peer->nodes[at];
	return NULL;
}

static u32 utun_table_roams(const struct utun_peer *peer)
{
	return peer && peer->path.flags & UTUN_PEER_F_ROAM_PORT;
}

static u32 utun_table_is_sixinfour(const struct utun_peer *peer)
{
	return peer && peer->path.ends.transport == UTUN_TRANSPORT_SIXINFOUR;
}

static int utun_table_check(struct utun_table *table, struct utun_peer *peer,
			    struct netlink_ext_ack *extack)
{
	struct utun_peer *other;
	int at, ret = 0;

	rcu_read_lock();
	other = utun_table_by_ends(table, &peer->path.ends);
	if (other && other->path.id != peer->path.id) {
		NL_SET_ERR_MSG_MOD(extack, "another peer has this outer path");
		ret = -EADDRINUSE;
	}
	for (at = 0; !ret && at < peer->path.n_nodes; at++) {
		if (utun_table_taken(table, &peer->nodes[at], peer->path.id)) {
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
	bool same_ends = old && !memcmp(&old->path.ends, &peer->path.ends, sizeof(old->path.ends));
	int at, undo, ret;

	ret = utun_table_check(table, peer, extack);
	if (ret)
		return ret;
	ret = old ? 0 : xa_reserve(&table->ids, peer->path.id, GFP_KERNEL);
	if (ret) {
		NL_SET_ERR_MSG_MOD(extack, "no memory for the tables");
		return ret;
	}

	for (at = 0; at < peer->path.n_nodes; at++) {
		if (utun_table_same_node(old, &peer->nodes[at]))
			continue;
		utun_table_length_use(table, &peer->nodes[at]);
		ret = rhashtable_insert_fast(&table->prefixes, &peer->nodes[at].hash,
					     utun_table_prefix_params);
		if (ret) {
			utun_table_length_drop(table, peer->nodes[at].length);
			goto err_remove_nodes;
		}
	}
	if (!same_ends) {
		ret = rhashtable_insert_fast(&table->ends, &peer->hash, utun_table_ends_params);
		if (ret)
			goto err_remove_nodes;
	}

	xa_store(&table->ids, peer->path.id, peer, GFP_KERNEL);
	if (same_ends)
		rhashtable_replace_fast(&table->ends, &old->hash, &peer->hash,
					utun_table_ends_params);
	for (at = 0; at < peer->path.n_nodes; at++) {
		struct utun_node *node = &peer->nodes[at], *same = utun_table_same_node(old, node);

		if (same) {
			rhashtable_replace_fast(&table->prefixes, &same->hash, &node->hash,
						utun_table_prefix_params);
			rb_replace_node(&utun_node_range(same)->rb, &utun_node_range(node)->rb,
					&table->ranges);
		} else {
			utun_table_range_add(table, node);
		}
	}

	if (old && !same_ends)
		rhashtable_remove_fast(&table->ends, &old->hash, utun_table_ends_params);
	for (at = 0; old && at < old->path.n_nodes; at++) {
		if (utun_table_same_node(peer, &old->nodes[at]))
			continue;
		rhashtable_remove_fast(&table->prefixes, &old->nodes[at].hash,
				       utun_table_prefix_params);
		rb_erase(&utun_node_range(&old->nodes[at])->rb, &table->ranges);
		utun_table_length_drop(table, old->nodes[at].length);
	}
	table->count += !old;
	table->roamers += utun_table_roams(peer) - utun_table_roams(old);
	table->sixinfours += utun_table_is_sixinfour(peer) - utun_table_is_sixinfour(old);
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
		xa_release(&table->ids, peer->path.id);
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

	xa_erase(&table->ids, peer->path.id);
	rhashtable_remove_fast(&table->ends, &peer->hash, utun_table_ends_params);
	for (at = 0; at < peer->path.n_nodes; at++) {
		rhashtable_remove_fast(&table->prefixes, &peer->nodes[at].hash,
				       utun_table_prefix_params);
		rb_erase(&utun_node_range(&peer->nodes[at])->rb, &table->ranges);
		utun_table_length_drop(table, peer->nodes[at].length);
	}
	table->count--;
	table->roamers -= utun_table_roams(peer);
	table->sixinfours -= utun_table_is_sixinfour(peer);
	table->generation++;
}
