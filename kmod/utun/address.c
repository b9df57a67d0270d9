// SPDX-License-Identifier: GPL-2.0
/*
 * Which inner addresses may pass: BCP 38 for a peer's sources, RFC 6324 for loops through other
 * tunnels.
 */
#include <linux/inetdevice.h>
#include <net/route.h>

#include "address.h"
#include "peer.h"

/* 2000::/3, where nothing but loops has to be looked for. */
static bool utun_address_is_global(const struct in6_addr *address)
{
	return (address->s6_addr[0] & 0xe0) == 0x20;
}

static bool utun_address_is_link_local(const struct in6_addr *address)
{
	return (address->s6_addr32[0] & htonl(0xffc00000)) == htonl(0xfe800000);
}

/* Multicast, ::/96 (unspecified, loopback, IPv4-compatible) and ::ffff:0:0/96 (IPv4-mapped). */
static bool utun_address_is_no_host(const struct in6_addr *address)
{
	if (ipv6_addr_is_multicast(address))
		return true;
	return !(address->s6_addr32[0] | address->s6_addr32[1]) &&
	       (!address->s6_addr32[2] || address->s6_addr32[2] == htonl(0x0000ffff));
}

static bool utun_address_is_ours(struct net *outer, __be32 address)
{
	return inet_addr_type(outer, address) == RTN_LOCAL;
}

/*
 * Whether one of our own IPv4 addresses is in the address: packets to it come back through another
 * tunnel, larger each time. RFC 6324 section 3: 6to4 (2002:V4ADDR::/48), ISATAP (interface
 * identifier [02]00:5efe:V4ADDR), Teredo (2001:0:SERVER:FLAGS:PORT:~CLIENT), and NAT64
 * (64:ff9b::V4ADDR, RFC 6052).
 */
static bool utun_address_loops(struct net *outer, const struct in6_addr *address)
{
	const __be32 *word = address->s6_addr32;

	if (unlikely(address->s6_addr16[0] == htons(0x2002)))
		if (utun_address_is_ours(outer, htonl(ntohl(word[0]) << 16 | ntohl(word[1]) >> 16)))
			return true;
	if (unlikely((word[2] & ~htonl(0x02000000)) == htonl(0x00005efe)))
		if (utun_address_is_ours(outer, word[3]))
			return true;
	if (unlikely(word[0] == htonl(0x20010000)))
		return utun_address_is_ours(outer, word[1]) ||
		       utun_address_is_ours(outer, ~word[3]);
	if (unlikely(word[0] == htonl(0x0064ff9b) && !word[1] && !word[2]))
		return utun_address_is_ours(outer, word[3]);
	return false;
}

/**
 * utun_address_source_fault() - judge the source of an inner packet, whoever sent it
 * @outer: the namespace of our outer addresses
 * @address: the source
 *
 * Return: 0, or the reason to drop the packet.
 */
enum utun_drop utun_address_source_fault(struct net *outer, const struct in6_addr *address)
{
	if (unlikely(!utun_address_is_global(address))) {
		if (utun_address_is_link_local(address))
			return UTUN_DROP_LINK_LOCAL;
		if (utun_address_is_no_host(address))
			return UTUN_DROP_BAD_SOURCE;
	}
	return utun_address_loops(outer, address) ? UTUN_DROP_LOOP : 0;
}

/**
 * utun_address_destination_fault() - judge the destination of an inner packet
 * @outer: the namespace of our outer addresses
 * @address: the destination
 *
 * Return: 0, or the reason to drop the packet.
 */
enum utun_drop utun_address_destination_fault(struct net *outer, const struct in6_addr *address)
{
	if (unlikely(!utun_address_is_global(address)))
		if (utun_address_is_link_local(address) || utun_address_is_no_host(address))
			return UTUN_DROP_BAD_DESTINATION;
	return utun_address_loops(outer, address) ? UTUN_DROP_LOOP : 0;
}

/**
 * utun_address_is_of() - whether an inner address is a peer's
 * @address: the address
 * @peer: the peer
 *
 * Return: true if one of its prefixes has the address.
 */
bool utun_address_is_of(const struct in6_addr *address, const struct utun_peer *peer)
{
	int at;

	for (at = 0; at < peer->path.n_nodes; at++)
		if (ipv6_prefix_equal(address, &peer->nodes[at].address, peer->nodes[at].length))
			return true;
	return false;
}
