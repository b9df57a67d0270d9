/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) */
/*
 * utun: IPv6 tunnels to many peers over one network device and one UDP port.
 *
 * The device
 * ----------
 * "ip link add NAME type utun" makes a device that takes no attributes of its own. It lives and
 * dies like any other link. The network namespace in which it was made is where its protocol 41
 * packets arrive and leave, wherever the device is moved to; UDP packets arrive and leave in the
 * namespace of the socket that was handed over.
 *
 * The family
 * ----------
 * Generic netlink family "utun", version 1. Every command needs CAP_NET_ADMIN in the user
 * namespace that owns the network namespace of the device, and names the device by
 * UTUN_A_IFINDEX. A refusal carries a sentence, and where an attribute is at fault its offset, in
 * the extended ack. Attributes that are not listed are refused.
 *
 * UTUN_CMD_DEV_GET
 *	The answer:
 *	    UTUN_A_IFINDEX: u32
 *	    UTUN_A_PEERS: u32, how many there are
 *	    UTUN_A_SOCKETS: u32, how many are attached
 *	    UTUN_A_GENERATION: u32, goes up with every change of a peer
 *	    UTUN_A_DROPS: nested, as below: packets that belong to no peer; packets of peers are
 *	        not in it
 *
 * UTUN_CMD_SOCKET_ADD
 *	    UTUN_A_IFINDEX: u32
 *	    UTUN_A_FD: u32, a bound UDP socket of the caller
 *	From now on the kernel carries the datagrams of the socket whose first four bits are 6.
 *	Those whose first four bits are 0xF, and those whose first four are 0 and the first four
 *	of whose fourth octet are 0xF (the headers of TSP), go on to the socket, and the caller
 *	reads and writes them as before. All others, and those of fewer than 8 octets, are
 *	counted as malformed and go nowhere. A device may have several sockets, a socket one
 *	device (EBUSY; EALREADY if it is this one, and nothing changes). ICMP errors are no
 *	longer reported to the socket. The socket's own life is not prolonged: closing it detaches
 *	it. Peers stay, and are carried again once a socket with their local address (or the
 *	wildcard) and port is attached.
 *
 * UTUN_CMD_SOCKET_DEL
 *	    UTUN_A_IFINDEX, UTUN_A_FD
 *	Detach: the socket is an ordinary UDP socket again. ENOENT if it is not attached to this
 *	device.
 *
 * UTUN_CMD_PEER_ADD
 *	    UTUN_A_IFINDEX: u32
 *	    UTUN_A_PEER: nested, any number of times:
 *	        UTUN_PEER_A_ID: u32, not 0
 *	        UTUN_PEER_A_TRANSPORT: u8, enum utun_transport; UDP if it is absent
 *	        UTUN_PEER_A_LOCAL4: be32, the outer address that packets to the peer leave from
 *	        UTUN_PEER_A_LOCAL_PORT: be16, only and always with UDP
 *	        UTUN_PEER_A_REMOTE4: be32, the outer address of the peer
 *	        UTUN_PEER_A_REMOTE_PORT: be16, only and always with UDP
 *	        UTUN_PEER_A_MTU: u16, the largest inner packet in octets; 1280 if it is absent
 *	        UTUN_PEER_A_FLAGS: u32, UTUN_PEER_F_*; 0 if it is absent
 *	        UTUN_PEER_A_PREFIX: struct utun_prefix, 1 to 64 times: what is inside. Packets
 *	            to these addresses go to the peer, packets from the peer must come from these
 *	            addresses. Prefixes of one peer may lie in each other.
 *	Without NLM_F_REPLACE an id that exists is refused (EEXIST); with it the peer becomes
 *	what the message says, keeping its counters. No two peers have the same ends
 *	(EADDRINUSE) or any inner address (EEXIST) in common. A packet sees a peer as it was
 *	before or as it is after, never something between. Peers are taken in the order of the
 *	message; the first that is refused ends it, those before it stay, and the extended
 *	ack has its offset.
 *
 * UTUN_CMD_PEER_SET
 *	As UTUN_CMD_PEER_ADD for peers that exist (ENOENT); what is absent stays as it is. If
 *	there is any UTUN_PEER_A_PREFIX, those given replace all.
 *
 * UTUN_CMD_PEER_DEL
 *	    UTUN_A_IFINDEX: u32
 *	    UTUN_A_PEER: nested, 1 to 128 times, with UTUN_PEER_A_ID and nothing else
 *	The answer has one UTUN_A_PEER for each that existed, with its final counters, as in
 *	UTUN_CMD_PEER_GET. Ids that do not exist are passed over. A packet that another
 *	processor is just carrying may be missing in the counters.
 *
 * UTUN_CMD_PEER_FLUSH
 *	    UTUN_A_IFINDEX: u32
 *	All peers go.
 *
 * UTUN_CMD_PEER_GET
 *	    UTUN_A_IFINDEX: u32
 *	    UTUN_A_PEER: nested, 1 to 128 times, with UTUN_PEER_A_ID; not in a dump
 *	The answer has one UTUN_A_PEER for each that exists; a dump has one in each of its
 *	messages, in ascending order of ids, and NLM_F_DUMP_INTR if peers changed on the way. A
 *	peer has what it was made with, and
 *	        UTUN_PEER_A_RX_PACKETS, UTUN_PEER_A_RX_BYTES: u64, inner packets from the peer,
 *	            IPv6 header included
 *	        UTUN_PEER_A_TX_PACKETS, UTUN_PEER_A_TX_BYTES: u64, to the peer
 *	        UTUN_PEER_A_LAST_RX: u64, milliseconds since the last of the former; absent
 *	            before the first
 *	        UTUN_PEER_A_DROPS: nested, absent if there were none:
 *	            enum utun_drop as the attribute type: u64, how many; those that are 0 are
 *	            absent
 *	Packets and octets are those of the wire: one that the kernel handled as one for many
 *	segments counts for each.
 *
 * Events
 * ------
 * Multicast group "events", for listeners with CAP_NET_ADMIN in the namespace of the device,
 * UTUN_CMD_EVENT:
 *	    UTUN_A_IFINDEX: u32
 *	    UTUN_A_EVENT: u8, enum utun_event
 *	    UTUN_A_PEER: nested: UTUN_PEER_A_ID unless there is none, and the ends (transport,
 *	        addresses and ports) in question
 *	    UTUN_A_INNER: struct in6_addr, an inner source address, with UTUN_EVENT_STRANGER and
 *	        UTUN_EVENT_SPOOFED
 *	At most 20 a second for a device, and none of them is repeated when it is lost: they are
 *	hints, the counters are the facts. UTUN_EVENT_SOCKET_GONE alone is not limited.
 */
#ifndef _UAPI_UTUN_H
#define _UAPI_UTUN_H

#include <linux/types.h>

#define UTUN_GENL_NAME		"utun"
#define UTUN_GENL_VERSION	1
#define UTUN_MCGRP_EVENTS	"events"

#define UTUN_PREFIXES_MAX	64	/* of one peer */
#define UTUN_IDS_MAX		128	/* in one PEER_DEL or PEER_GET */

enum utun_cmd {
	UTUN_CMD_DEV_GET = 1,
	UTUN_CMD_SOCKET_ADD,
	UTUN_CMD_SOCKET_DEL,
	UTUN_CMD_PEER_ADD,
	UTUN_CMD_PEER_SET,
	UTUN_CMD_PEER_DEL,
	UTUN_CMD_PEER_FLUSH,
	UTUN_CMD_PEER_GET,
	UTUN_CMD_EVENT,

	__UTUN_CMD_MAX,
	UTUN_CMD_MAX = (__UTUN_CMD_MAX - 1)
};

enum utun_attr {
	UTUN_A_IFINDEX = 1,
	UTUN_A_FD,
	UTUN_A_PEER,
	UTUN_A_PEERS,
	UTUN_A_SOCKETS,
	UTUN_A_GENERATION,
	UTUN_A_DROPS,
	UTUN_A_EVENT,
	UTUN_A_INNER,

	__UTUN_A_MAX,
	UTUN_A_MAX = (__UTUN_A_MAX - 1)
};

enum utun_peer_attr {
	UTUN_PEER_A_ID = 1,
	UTUN_PEER_A_TRANSPORT,
	UTUN_PEER_A_LOCAL4,
	UTUN_PEER_A_LOCAL_PORT,
	UTUN_PEER_A_REMOTE4,
	UTUN_PEER_A_REMOTE_PORT,
	UTUN_PEER_A_MTU,
	UTUN_PEER_A_FLAGS,
	UTUN_PEER_A_PREFIX,
	UTUN_PEER_A_RX_PACKETS,
	UTUN_PEER_A_RX_BYTES,
	UTUN_PEER_A_TX_PACKETS,
	UTUN_PEER_A_TX_BYTES,
	UTUN_PEER_A_LAST_RX,
	UTUN_PEER_A_DROPS,
	UTUN_PEER_A_PAD,

	__UTUN_PEER_A_MAX,
	UTUN_PEER_A_MAX = (__UTUN_PEER_A_MAX - 1)
};

enum utun_transport {
	UTUN_TRANSPORT_UDP = 1,		/* IPv6 in UDP in IPv4 */
	UTUN_TRANSPORT_SIXINFOUR,	/* IPv6 in IPv4, protocol 41 */
};

enum utun_peer_flags {
	UTUN_PEER_F_NO_CHECKSUM = 1 << 0,	/* send outer UDP without a checksum */
	UTUN_PEER_F_ROAM_PORT	= 1 << 1,	/* follow the peer to another port, once a second */
};

/*
 * Why a packet was not carried. The first eight may be a peer's or nobody's, the last two are
 * always nobody's.
 */
enum utun_drop {
	UTUN_DROP_MALFORMED = 1,	/* not one whole IPv6 packet, or false ECN fields */
	UTUN_DROP_SPOOFED_SOURCE,	/* from outside of the peer's prefixes */
	UTUN_DROP_BAD_SOURCE,		/* multicast, unspecified, loopback, with IPv4 inside */
	UTUN_DROP_BAD_DESTINATION,	/* the same, or link-local */
	UTUN_DROP_LINK_LOCAL,		/* from a link-local source: router solicitations, say */
	UTUN_DROP_TOO_BIG,		/* answered with ICMPv6 Packet Too Big */
	UTUN_DROP_LOOP,			/* would come back to us (RFC 6324) */
	UTUN_DROP_NOT_SENT,		/* no socket, no route, no memory, or a full queue */
	UTUN_DROP_UNKNOWN_ENDPOINT,	/* from an outer endpoint that no peer has */
	UTUN_DROP_NO_TUNNEL,		/* to an address that no peer has; answered with ICMPv6 */

	__UTUN_DROP_MAX,
	UTUN_DROP_MAX = (__UTUN_DROP_MAX - 1)
};

#define UTUN_DROP_PAD	255	/* as an attribute among drops: padding */

enum utun_event {
	UTUN_EVENT_STRANGER = 1,	/* an unknown endpoint used a peer's inner address */
	UTUN_EVENT_SPOOFED,		/* a peer used an inner address that it has not */
	UTUN_EVENT_UNREACHABLE,		/* an ICMP error came back for a packet to the peer */
	UTUN_EVENT_MOVED,		/* a peer with UTUN_PEER_F_ROAM_PORT has another port now */
	UTUN_EVENT_SOCKET_GONE,		/* an attached socket was closed; the ends say which */
};

/* A value of UTUN_PEER_A_PREFIX. Bits of the address behind the length are 0. */
struct utun_prefix {
	__u8	address[16];
	__u8	length;			/* 1 to 128 */
	__u8	reserved[3];		/* 0 */
};

#endif /* _UAPI_UTUN_H */
