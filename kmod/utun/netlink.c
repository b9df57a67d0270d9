// SPDX-License-Identifier: GPL-2.0
/*
 * The generic netlink family: messages to structs and back. What it means is in uapi/utun.h.
 *
 * Requests do not hold RTNL; each takes its device's lock and asks whether the device is still
 * there.
 */
#include <net/genetlink.h>
#include <net/sock.h>

#include "compat.h"
#include "netdev.h"
#include "netlink.h"
#include "socket.h"

static struct genl_family utun_netlink_family;

enum { UTUN_NETLINK_EVENTS };

/* What requests take, by kind; what stands behind is told and never asked for. */
static const struct nla_policy utun_netlink_device_policy[UTUN_A_PEER + 1] = {
	[UTUN_A_IFINDEX] = NLA_POLICY_MIN(NLA_U32, 1),
};

static const struct nla_policy utun_netlink_socket_policy[UTUN_A_PEER + 1] = {
	[UTUN_A_IFINDEX] = NLA_POLICY_MIN(NLA_U32, 1),
	[UTUN_A_FD] = { .type = NLA_U32 },
};

static const struct nla_policy utun_netlink_peers_policy[UTUN_A_PEER + 1] = {
	[UTUN_A_IFINDEX] = NLA_POLICY_MIN(NLA_U32, 1),
	[UTUN_A_PEER] = { .type = NLA_NESTED },
};

static int utun_netlink_check_prefix(const struct nlattr *attr, struct netlink_ext_ack *extack)
{
	const struct utun_prefix *prefix = nla_data(attr);
	struct in6_addr address, masked;

	memcpy(&address, prefix->address, sizeof(address));
	if (!prefix->length || prefix->length > 128 ||
	    memchr_inv(prefix->reserved, 0, sizeof(prefix->reserved))) {
		NL_SET_ERR_MSG_ATTR(extack, attr, "the length of a prefix is 1 to 128");
		return -EINVAL;
	}
	ipv6_addr_prefix(&masked, &address, prefix->length);
	if (!ipv6_addr_equal(&masked, &address)) {
		NL_SET_ERR_MSG_ATTR(extack, attr,
				    "the address of the prefix has bits behind its length");
		return -EINVAL;
	}
	return 0;
}

static struct netlink_range_validation utun_netlink_mtu_range = {
	.min = IPV6_MIN_MTU,
	.max = UTUN_MTU_MAX,
};

static const struct nla_policy utun_netlink_peer_policy[UTUN_PEER_A_MAX + 1] = {
	[UTUN_PEER_A_ID] = NLA_POLICY_MIN(NLA_U32, 1),
	[UTUN_PEER_A_TRANSPORT] =
		NLA_POLICY_RANGE(NLA_U8, UTUN_TRANSPORT_UDP, UTUN_TRANSPORT_SIXINFOUR),
	[UTUN_PEER_A_LOCAL4] = { .type = NLA_BE32 },
	[UTUN_PEER_A_LOCAL_PORT] = { .type = NLA_BE16 },
	[UTUN_PEER_A_REMOTE4] = { .type = NLA_BE32 },
	[UTUN_PEER_A_REMOTE_PORT] = { .type = NLA_BE16 },
	[UTUN_PEER_A_MTU] = NLA_POLICY_FULL_RANGE(NLA_U16, &utun_netlink_mtu_range),
	[UTUN_PEER_A_FLAGS] =
		NLA_POLICY_MASK(NLA_U32, UTUN_PEER_F_NO_CHECKSUM | UTUN_PEER_F_ROAM_PORT),
	[UTUN_PEER_A_PREFIX] = NLA_POLICY_EXACT_LEN(sizeof(struct utun_prefix)),
};

/* Which peer, and nothing else. */
static const struct nla_policy utun_netlink_id_policy[UTUN_PEER_A_ID + 1] = {
	[UTUN_PEER_A_ID] = NLA_POLICY_MIN(NLA_U32, 1),
};

/* --- devices ------------------------------------------------------------------------------- */

static struct utun *utun_netlink_find(struct net *net, struct nlattr **attrs,
				      struct netlink_ext_ack *extack)
{
	struct net_device *dev;

	if (!attrs[UTUN_A_IFINDEX]) {
		NL_SET_ERR_MSG_MOD(extack, "no device is named");
		return ERR_PTR(-EINVAL);
	}
	dev = dev_get_by_index(net, nla_get_u32(attrs[UTUN_A_IFINDEX]));
	if (!dev) {
		NL_SET_ERR_MSG_ATTR(extack, attrs[UTUN_A_IFINDEX], "there is no such device");
		return ERR_PTR(-ENODEV);
	}
	if (!utun_netdev_is(dev)) {
		dev_put(dev);
		NL_SET_ERR_MSG_ATTR(extack, attrs[UTUN_A_IFINDEX],
				    "the device is not of type utun");
		return ERR_PTR(-EOPNOTSUPP);
	}
	return netdev_priv(dev);
}

/* The device that a request names, held and locked, or an error pointer. */
static struct utun *utun_netlink_lock(struct genl_info *info)
{
	struct utun *ut = utun_netlink_find(genl_info_net(info), info->attrs, info->extack);

	if (IS_ERR(ut))
		return ut;
	mutex_lock(&ut->lock);
	if (ut->dead) {
		mutex_unlock(&ut->lock);
		dev_put(ut->dev);
		NL_SET_ERR_MSG_MOD(info->extack, "the device is being deleted");
		return ERR_PTR(-ENODEV);
	}
	return ut;
}

static void utun_netlink_unlock(struct utun *ut)
{
	mutex_unlock(&ut->lock);
	dev_put(ut->dev);
}

/* --- answers ------------------------------------------------------------------------------- */

static int utun_netlink_put_ends(struct sk_buff *msg, const struct utun_ends *ends)
{
	if (nla_put_u8(msg, UTUN_PEER_A_TRANSPORT, ends->transport) ||
	    nla_put_in_addr(msg, UTUN_PEER_A_LOCAL4, ends->local) ||
	    nla_put_in_addr(msg, UTUN_PEER_A_REMOTE4, ends->remote))
		return -EMSGSIZE;
	if (ends->transport != UTUN_TRANSPORT_UDP)
		return 0;
	if (nla_put_be16(msg, UTUN_PEER_A_LOCAL_PORT, ends->local_port) ||
	    nla_put_be16(msg, UTUN_PEER_A_REMOTE_PORT, ends->remote_port))
		return -EMSGSIZE;
	return 0;
}

/* Those of @count reasons that are not 0, in a nest that is absent if all are. */
static int utun_netlink_put_drops(struct sk_buff *msg, int attr, int pad, const u64 *drops,
				  int count)
{
	struct nlattr *nest = NULL;
	int at;

	for (at = 0; at < count; at++) {
		if (!drops[at])
			continue;
		if (!nest)
			nest = nla_nest_start(msg, attr);
		if (!nest || nla_put_u64_64bit(msg, at + 1, drops[at], pad))
			return -EMSGSIZE;
	}
	if (nest)
		nla_nest_end(msg, nest);
	return 0;
}

/* Return: 0, or -EMSGSIZE with the message as it was. */
static int utun_netlink_put_peer(struct sk_buff *msg, const struct utun_peer *peer)
{
	struct utun_peer_stats stats;
	struct nlattr *nest;
	int at;

	nest = nla_nest_start(msg, UTUN_A_PEER);
	if (!nest)
		return -EMSGSIZE;
	if (nla_put_u32(msg, UTUN_PEER_A_ID, peer->path.id) ||
	    utun_netlink_put_ends(msg, &peer->path.ends) ||
	    nla_put_u16(msg, UTUN_PEER_A_MTU, peer->path.mtu) ||
	    nla_put_u32(msg, UTUN_PEER_A_FLAGS, peer->path.flags))
		goto err_cancel;
	for (at = 0; at < peer->path.n_nodes; at++) {
		struct utun_prefix prefix = { .length = peer->nodes[at].length };

		memcpy(prefix.address, &peer->nodes[at].address, sizeof(prefix.address));
		if (nla_put(msg, UTUN_PEER_A_PREFIX, sizeof(prefix), &prefix))
			goto err_cancel;
	}
	utun_peer_stats_read(peer, &stats);
	if (nla_put_u64_64bit(msg, UTUN_PEER_A_RX_PACKETS, stats.rx_packets, UTUN_PEER_A_PAD) ||
	    nla_put_u64_64bit(msg, UTUN_PEER_A_RX_BYTES, stats.rx_bytes, UTUN_PEER_A_PAD) ||
	    nla_put_u64_64bit(msg, UTUN_PEER_A_TX_PACKETS, stats.tx_packets, UTUN_PEER_A_PAD) ||
	    nla_put_u64_64bit(msg, UTUN_PEER_A_TX_BYTES, stats.tx_bytes, UTUN_PEER_A_PAD))
		goto err_cancel;
	if (stats.seen &&
	    nla_put_u64_64bit(msg, UTUN_PEER_A_LAST_RX, stats.last_rx_msecs, UTUN_PEER_A_PAD))
		goto err_cancel;
	if (utun_netlink_put_drops(msg, UTUN_PEER_A_DROPS, UTUN_DROP_PAD, stats.drops,
				   UTUN_PEER_DROPS))
		goto err_cancel;
	nla_nest_end(msg, nest);
	return 0;

err_cancel:
	nla_nest_cancel(msg, nest);
	return -EMSGSIZE;
}

/* No peer with @n_prefixes takes more octets in an answer. */
static size_t utun_netlink_peer_size(u32 n_prefixes)
{
	return nla_total_size(0) + 2 * nla_total_size(sizeof(u32)) + nla_total_size(sizeof(u8)) +
	       2 * nla_total_size(sizeof(__be32)) + 3 * nla_total_size(sizeof(u16)) +
	       n_prefixes * nla_total_size(sizeof(struct utun_prefix)) +
	       5 * nla_total_size_64bit(sizeof(u64)) + nla_total_size(0) +
	       UTUN_PEER_DROPS * nla_total_size_64bit(sizeof(u64));
}

/* --- what a peer shall be ------------------------------------------------------------------ */

static int utun_netlink_parse_prefixes(const struct nlattr *nest, struct utun_peer_config *config,
				       struct netlink_ext_ack *extack)
{
	const struct nlattr *attr;
	int at, rem, ret;
	bool first = true;

	nla_for_each_nested(attr, nest, rem) {
		if (nla_type(attr) != UTUN_PEER_A_PREFIX)
			continue;
		ret = utun_netlink_check_prefix(attr, extack);
		if (ret)
			return ret;
		if (first)
			config->n_prefixes = 0;
		first = false;
		for (at = 0; at < config->n_prefixes; at++)
			if (!memcmp(&config->prefixes[at], nla_data(attr),
				    sizeof(struct utun_prefix)))
				break;
		if (at < config->n_prefixes)
			continue;
		if (at == UTUN_PREFIXES_MAX) {
			NL_SET_ERR_MSG_ATTR(extack, attr, "a peer has 64 prefixes at most");
			return -E2BIG;
		}
		memcpy(&config->prefixes[config->n_prefixes++], nla_data(attr),
		       sizeof(struct utun_prefix));
	}
	return 0;
}

static int utun_netlink_check_ends(const struct utun_ends *ends, const struct nlattr *nest,
				   struct netlink_ext_ack *extack)
{
	if (!ends->local || !ends->remote || ipv4_is_multicast(ends->local) ||
	    ipv4_is_multicast(ends->remote) || ipv4_is_lbcast(ends->local) ||
	    ipv4_is_lbcast(ends->remote)) {
		NL_SET_ERR_MSG_ATTR(extack, nest,
				    "a peer needs a local and a remote address, each of one host");
		return -EINVAL;
	}
	if (ends->transport == UTUN_TRANSPORT_UDP ? !ends->local_port || !ends->remote_port :
						    ends->local_port || ends->remote_port) {
		NL_SET_ERR_MSG_ATTR(extack, nest, "a peer has ports with UDP, and with UDP only");
		return -EINVAL;
	}
	if (ends->local == ends->remote && ends->local_port == ends->remote_port) {
		NL_SET_ERR_MSG_ATTR(extack, nest, "both ends of the peer are the same");
		return -EINVAL;
	}
	return 0;
}

/* Change @config as the message says. */
static int utun_netlink_parse_peer(const struct nlattr *nest, struct nlattr **attrs,
				   struct utun_peer_config *config, struct netlink_ext_ack *extack)
{
	int ret;

	if (attrs[UTUN_PEER_A_TRANSPORT])
		config->ends.transport = nla_get_u8(attrs[UTUN_PEER_A_TRANSPORT]);
	if (attrs[UTUN_PEER_A_LOCAL4])
		config->ends.local = nla_get_in_addr(attrs[UTUN_PEER_A_LOCAL4]);
	if (attrs[UTUN_PEER_A_REMOTE4])
		config->ends.remote = nla_get_in_addr(attrs[UTUN_PEER_A_REMOTE4]);
	if (attrs[UTUN_PEER_A_LOCAL_PORT])
		config->ends.local_port = nla_get_be16(attrs[UTUN_PEER_A_LOCAL_PORT]);
	if (attrs[UTUN_PEER_A_REMOTE_PORT])
		config->ends.remote_port = nla_get_be16(attrs[UTUN_PEER_A_REMOTE_PORT]);
	if (attrs[UTUN_PEER_A_MTU])
		config->mtu = nla_get_u16(attrs[UTUN_PEER_A_MTU]);
	if (attrs[UTUN_PEER_A_FLAGS])
		config->flags = nla_get_u32(attrs[UTUN_PEER_A_FLAGS]);
	ret = utun_netlink_parse_prefixes(nest, config, extack);
	if (ret)
		return ret;
	if (!config->n_prefixes) {
		NL_SET_ERR_MSG_ATTR(extack, nest, "a peer needs a prefix");
		return -EINVAL;
	}
	return utun_netlink_check_ends(&config->ends, nest, extack);
}

/* One UTUN_A_PEER of PEER_ADD (@change: PEER_SET). @config is scratch space. */
static int utun_netlink_take_peer(struct utun *ut, struct genl_info *info,
				  const struct nlattr *nest, struct utun_peer_config *config,
				  bool change)
{
	struct nlattr *attrs[UTUN_PEER_A_MAX + 1];
	struct netlink_ext_ack *extack = info->extack;
	struct utun_peer *old, *peer;
	int ret;

	ret = nla_parse_nested(attrs, UTUN_PEER_A_MAX, nest, utun_netlink_peer_policy, extack);
	if (ret)
		return ret;
	if (!attrs[UTUN_PEER_A_ID]) {
		NL_SET_ERR_MSG_ATTR(extack, nest, "a peer needs an id");
		return -EINVAL;
	}
	old = utun_table_by_id(&ut->table, nla_get_u32(attrs[UTUN_PEER_A_ID]));
	if (change && !old) {
		NL_SET_ERR_MSG_ATTR(extack, attrs[UTUN_PEER_A_ID], "there is no peer of this id");
		return -ENOENT;
	}
	if (!change && old && !(info->nlhdr->nlmsg_flags & NLM_F_REPLACE)) {
		NL_SET_ERR_MSG_ATTR(extack, attrs[UTUN_PEER_A_ID], "there is a peer of this id");
		return -EEXIST;
	}
	if (change) {
		utun_peer_config_of(old, config);
	} else {
		memset(config, 0, sizeof(*config));
		config->id = nla_get_u32(attrs[UTUN_PEER_A_ID]);
		config->ends.transport = UTUN_TRANSPORT_UDP;
		config->mtu = IPV6_MIN_MTU;
	}
	ret = utun_netlink_parse_peer(nest, attrs, config, extack);
	if (ret)
		return ret;

	peer = utun_peer_create(config, old);
	if (!peer) {
		NL_SET_ERR_MSG_ATTR(extack, nest, "no memory for the peer");
		return -ENOMEM;
	}
	ret = utun_table_put(&ut->table, peer, old, extack);
	if (ret) {
		NL_SET_BAD_ATTR(extack, nest);
		utun_peer_discard(peer, !old);
		return ret;
	}
	if (old)
		utun_peer_retire(old);
	return 0;
}

/* --- requests ------------------------------------------------------------------------------ */

static int utun_netlink_dev_get(struct sk_buff *skb, struct genl_info *info)
{
	u64 drops[UTUN_DROP_MAX] = { 0 };
	struct sk_buff *msg;
	struct utun *ut;
	int cpu, at;
	void *head;

	msg = genlmsg_new(NLMSG_GOODSIZE, GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	ut = utun_netlink_lock(info);
	if (IS_ERR(ut)) {
		nlmsg_free(msg);
		return PTR_ERR(ut);
	}
	for_each_possible_cpu(cpu) {
		const struct utun_drops *each = per_cpu_ptr(ut->drops, cpu);

		for (at = 0; at < UTUN_DROP_MAX; at++) {
			unsigned int start;
			u64 count;

			do {
				start = u64_stats_fetch_begin(&each->sync);
				count = u64_stats_read(&each->drops[at]);
			} while (u64_stats_fetch_retry(&each->sync, start));
			drops[at] += count;
		}
	}
	head = genlmsg_put_reply(msg, info, &utun_netlink_family, 0, UTUN_CMD_DEV_GET);
	if (!head || nla_put_u32(msg, UTUN_A_IFINDEX, ut->dev->ifindex) ||
	    nla_put_u32(msg, UTUN_A_PEERS, ut->table.count) ||
	    nla_put_u32(msg, UTUN_A_SOCKETS, READ_ONCE(ut->n_sockets)) ||
	    nla_put_u32(msg, UTUN_A_GENERATION, ut->table.generation) ||
	    utun_netlink_put_drops(msg, UTUN_A_DROPS, UTUN_DROP_PAD, drops, UTUN_DROP_MAX)) {
		utun_netlink_unlock(ut);
		nlmsg_free(msg);
		return -EMSGSIZE;
	}
	utun_netlink_unlock(ut);
	genlmsg_end(msg, head);
	return genlmsg_reply(msg, info);
}

static int utun_netlink_socket(struct genl_info *info,
			       int (*act)(struct utun *ut, u32 fd, struct netlink_ext_ack *extack))
{
	struct utun *ut;
	int ret;

	if (!info->attrs[UTUN_A_FD]) {
		NL_SET_ERR_MSG_MOD(info->extack, "no file descriptor is given");
		return -EINVAL;
	}
	ut = utun_netlink_lock(info);
	if (IS_ERR(ut))
		return PTR_ERR(ut);
	ret = act(ut, nla_get_u32(info->attrs[UTUN_A_FD]), info->extack);
	utun_netlink_unlock(ut);
	return ret;
}

static int utun_netlink_socket_add(struct sk_buff *skb, struct genl_info *info)
{
	return utun_netlink_socket(info, utun_socket_attach);
}

static int utun_netlink_socket_del(struct sk_buff *skb, struct genl_info *info)
{
	return utun_netlink_socket(info, utun_socket_detach);
}

static int utun_netlink_take_peers(struct genl_info *info, bool change)
{
	struct utun_peer_config *config;
	const struct nlattr *attr;
	int rem, ret = 0;
	struct utun *ut;

	config = kmalloc(sizeof(*config), GFP_KERNEL);
	if (!config)
		return -ENOMEM;
	ut = utun_netlink_lock(info);
	if (IS_ERR(ut)) {
		kfree(config);
		return PTR_ERR(ut);
	}
	nlmsg_for_each_attr(attr, info->nlhdr, GENL_HDRLEN, rem) {
		if (nla_type(attr) != UTUN_A_PEER)
			continue;
		ret = utun_netlink_take_peer(ut, info, attr, config, change);
		if (ret)
			break;
		cond_resched();
	}
	utun_netlink_unlock(ut);
	kfree(config);
	return ret;
}

static int utun_netlink_peer_add(struct sk_buff *skb, struct genl_info *info)
{
	return utun_netlink_take_peers(info, false);
}

static int utun_netlink_peer_set(struct sk_buff *skb, struct genl_info *info)
{
	return utun_netlink_take_peers(info, true);
}

/* The ids of a request. Return: how many, or a negative error. */
static int utun_netlink_parse_ids(struct genl_info *info, u32 *ids)
{
	struct nlattr *attrs[UTUN_PEER_A_ID + 1];
	const struct nlattr *attr;
	int rem, ret, count = 0;

	nlmsg_for_each_attr(attr, info->nlhdr, GENL_HDRLEN, rem) {
		if (nla_type(attr) != UTUN_A_PEER)
			continue;
		if (count == UTUN_IDS_MAX) {
			NL_SET_ERR_MSG_ATTR(info->extack, attr,
					    "a message names 128 peers at most");
			return -E2BIG;
		}
		ret = nla_parse_nested(attrs, UTUN_PEER_A_ID, attr, utun_netlink_id_policy,
				       info->extack);
		if (ret)
			return ret;
		if (!attrs[UTUN_PEER_A_ID]) {
			NL_SET_ERR_MSG_ATTR(info->extack, attr, "a peer needs an id");
			return -EINVAL;
		}
		ids[count++] = nla_get_u32(attrs[UTUN_PEER_A_ID]);
	}
	if (!count) {
		NL_SET_ERR_MSG_MOD(info->extack, "no peer is named");
		return -EINVAL;
	}
	return count;
}

/* Answer with the peers that are named and there; @remove them as well. */
static int utun_netlink_named_peers(struct genl_info *info, u8 command, bool remove)
{
	struct utun_peer *peer;
	struct sk_buff *msg;
	int at, count, ret;
	size_t size = 0;
	struct utun *ut;
	void *head;
	u32 *ids;

	ids = kmalloc_array(UTUN_IDS_MAX, sizeof(*ids), GFP_KERNEL);
	if (!ids)
		return -ENOMEM;
	count = utun_netlink_parse_ids(info, ids);
	if (count < 0) {
		ret = count;
		goto out_free_ids;
	}
	ut = utun_netlink_lock(info);
	if (IS_ERR(ut)) {
		ret = PTR_ERR(ut);
		goto out_free_ids;
	}
	for (at = 0; at < count; at++) {
		peer = utun_table_by_id(&ut->table, ids[at]);
		if (peer)
			size += utun_netlink_peer_size(peer->path.n_nodes);
	}
	msg = genlmsg_new(nla_total_size(sizeof(u32)) + size, GFP_KERNEL);
	ret = -ENOMEM;
	if (!msg)
		goto out_unlock;
	head = genlmsg_put_reply(msg, info, &utun_netlink_family, 0, command);
	if (WARN_ON_ONCE(!head || nla_put_u32(msg, UTUN_A_IFINDEX, ut->dev->ifindex))) {
		ret = -EMSGSIZE;
		goto err_free_msg;
	}
	for (at = 0; at < count; at++) {
		peer = utun_table_by_id(&ut->table, ids[at]);
		if (!peer)
			continue;
		if (remove)
			utun_table_remove(&ut->table, peer);
		/* There is room for all: an id that is given twice is gone, or too much. */
		ret = utun_netlink_put_peer(msg, peer);
		if (remove)
			utun_peer_release(peer);
		if (ret)
			goto err_free_msg;
	}
	genlmsg_end(msg, head);
	utun_netlink_unlock(ut);
	kfree(ids);
	return genlmsg_reply(msg, info);

err_free_msg:
	nlmsg_free(msg);
out_unlock:
	utun_netlink_unlock(ut);
out_free_ids:
	kfree(ids);
	return ret;
}

static int utun_netlink_peer_del(struct sk_buff *skb, struct genl_info *info)
{
	return utun_netlink_named_peers(info, UTUN_CMD_PEER_DEL, true);
}

static int utun_netlink_peer_get(struct sk_buff *skb, struct genl_info *info)
{
	return utun_netlink_named_peers(info, UTUN_CMD_PEER_GET, false);
}

static int utun_netlink_peer_flush(struct sk_buff *skb, struct genl_info *info)
{
	struct utun *ut = utun_netlink_lock(info);

	if (IS_ERR(ut))
		return PTR_ERR(ut);
	utun_netdev_clear(ut);
	utun_netlink_unlock(ut);
	return 0;
}

/* cb->args[0]: the id to go on from. */
static int utun_netlink_peer_dump(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct nlattr **attrs = utun_compat_dump_attrs(cb);
	unsigned long id = cb->args[0];
	struct utun_peer *peer;
	struct utun *ut;
	void *head;

	if (attrs[UTUN_A_PEER]) {
		NL_SET_ERR_MSG_ATTR(cb->extack, attrs[UTUN_A_PEER], "a dump names no peers");
		return -EINVAL;
	}
	ut = utun_netlink_find(sock_net(cb->skb->sk), attrs, cb->extack);
	if (IS_ERR(ut))
		return PTR_ERR(ut);
	mutex_lock(&ut->lock);
	cb->seq = ut->table.generation;
	xa_for_each_start(&ut->table.ids, id, peer, cb->args[0]) {
		head = genlmsg_put(skb, NETLINK_CB(cb->skb).portid, cb->nlh->nlmsg_seq,
				   &utun_netlink_family, NLM_F_MULTI, UTUN_CMD_PEER_GET);
		if (!head)
			break;
		genl_dump_check_consistent(cb, head);
		if (nla_put_u32(skb, UTUN_A_IFINDEX, ut->dev->ifindex) ||
		    utun_netlink_put_peer(skb, peer)) {
			genlmsg_cancel(skb, head);
			break;
		}
		genlmsg_end(skb, head);
	}
	if (!peer)
		id = ULONG_MAX;
	cb->args[0] = id;
	utun_netlink_unlock(ut);
	return skb->len;
}

/* --- events -------------------------------------------------------------------------------- */

/**
 * utun_netlink_listened() - whether anybody would hear an event
 * @ut: the device
 *
 * Return: true if there is a listener.
 */
bool utun_netlink_listened(const struct utun *ut)
{
	return genl_has_listeners(&utun_netlink_family, dev_net(ut->dev), UTUN_NETLINK_EVENTS);
}

/**
 * utun_netlink_event() - tell who listens
 * @ut: the device
 * @event: what happened
 * @id: the peer, or 0
 * @ends: the outer path
 * @inner: an inner source address, or NULL
 *
 * From any context. Most are rate limited.
 */
void utun_netlink_event(struct utun *ut, enum utun_event event, u32 id,
			const struct utun_ends *ends, const struct in6_addr *inner)
{
	struct nlattr *nest;
	struct sk_buff *msg;
	void *head;

	if (!utun_netlink_listened(ut))
		return;
	if (event != UTUN_EVENT_SOCKET_GONE && !__ratelimit(&ut->events))
		return;
	msg = genlmsg_new(NLMSG_GOODSIZE, GFP_ATOMIC);
	if (!msg)
		return;
	head = genlmsg_put(msg, 0, 0, &utun_netlink_family, 0, UTUN_CMD_EVENT);
	if (!head || nla_put_u32(msg, UTUN_A_IFINDEX, ut->dev->ifindex) ||
	    nla_put_u8(msg, UTUN_A_EVENT, event))
		goto err_free;
	nest = nla_nest_start(msg, UTUN_A_PEER);
	if (!nest || (id && nla_put_u32(msg, UTUN_PEER_A_ID, id)) ||
	    utun_netlink_put_ends(msg, ends))
		goto err_free;
	nla_nest_end(msg, nest);
	if (inner && nla_put_in6_addr(msg, UTUN_A_INNER, inner))
		goto err_free;
	genlmsg_end(msg, head);
	genlmsg_multicast_netns(&utun_netlink_family, dev_net(ut->dev), msg, 0, UTUN_NETLINK_EVENTS,
				GFP_ATOMIC);
	return;

err_free:
	nlmsg_free(msg);
}

/* --- the family ---------------------------------------------------------------------------- */

#define UTUN_NETLINK_DO(command, takes, handler) \
	.cmd = UTUN_CMD_##command, .flags = GENL_UNS_ADMIN_PERM, \
	.policy = utun_netlink_##takes##_policy, .maxattr = UTUN_A_PEER, .doit = handler

static const struct genl_ops utun_netlink_ops[] = {
	{ UTUN_NETLINK_DO(DEV_GET, device, utun_netlink_dev_get) },
	{ UTUN_NETLINK_DO(SOCKET_ADD, socket, utun_netlink_socket_add) },
	{ UTUN_NETLINK_DO(SOCKET_DEL, socket, utun_netlink_socket_del) },
	{ UTUN_NETLINK_DO(PEER_ADD, peers, utun_netlink_peer_add) },
	{ UTUN_NETLINK_DO(PEER_SET, peers, utun_netlink_peer_set) },
	{ UTUN_NETLINK_DO(PEER_DEL, peers, utun_netlink_peer_del) },
	{ UTUN_NETLINK_DO(PEER_FLUSH, device, utun_netlink_peer_flush) },
	{
		UTUN_NETLINK_DO(PEER_GET, peers, utun_netlink_peer_get),
		.dumpit = utun_netlink_peer_dump,
	},
};

static const struct genl_multicast_group utun_netlink_groups[] = {
	[UTUN_NETLINK_EVENTS] = { .name = UTUN_MCGRP_EVENTS, UTUN_MCGRP_ADMIN },
};

static struct genl_family utun_netlink_family __ro_after_init = {
	.name = UTUN_GENL_NAME,
	.version = UTUN_GENL_VERSION,
	.netnsok = true,
	.parallel_ops = true,
	.module = THIS_MODULE,
	.ops = utun_netlink_ops,
	.n_ops = ARRAY_SIZE(utun_netlink_ops),
	.mcgrps = utun_netlink_groups,
	.n_mcgrps = ARRAY_SIZE(utun_netlink_groups),
	UTUN_STRICT_FROM(__UTUN_CMD_MAX)
};

/**
 * utun_netlink_register() - take requests from now on
 *
 * Return: 0 or a negative error.
 */
int __init utun_netlink_register(void)
{
	return genl_register_family(&utun_netlink_family);
}

/**
 * utun_netlink_unregister() - take no more, and wait for those under way
 */
void utun_netlink_unregister(void)
{
	genl_unregister_family(&utun_netlink_family);
}
