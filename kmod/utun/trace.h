/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoint utun:utun_drop, for every packet that was not carried.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM utun

#if !defined(_UTUN_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _UTUN_TRACE_H

#include <linux/netdevice.h>
#include <linux/tracepoint.h>

#include "uapi/utun.h"

TRACE_EVENT(utun_drop,
	TP_PROTO(const struct net_device *dev, u32 peer, u8 reason),
	TP_ARGS(dev, peer, reason),

	TP_STRUCT__entry(
		__array(char, name, IFNAMSIZ)
		__field(u32, peer)
		__field(u8, reason)
	),

	TP_fast_assign(
		memcpy(__entry->name, dev->name, IFNAMSIZ);
		__entry->peer = peer;
		__entry->reason = reason;
	),

	TP_printk("dev=%s peer=%u reason=%s", __entry->name, __entry->peer,
		  __print_symbolic(__entry->reason,
				   { UTUN_DROP_MALFORMED, "malformed" },
				   { UTUN_DROP_SPOOFED_SOURCE, "spoofed-source" },
				   { UTUN_DROP_BAD_SOURCE, "bad-source" },
				   { UTUN_DROP_BAD_DESTINATION, "bad-destination" },
				   { UTUN_DROP_LINK_LOCAL, "link-local" },
				   { UTUN_DROP_TOO_BIG, "too-big" },
				   { UTUN_DROP_LOOP, "loop" },
				   { UTUN_DROP_NOT_SENT, "not-sent" },
				   { UTUN_DROP_UNKNOWN_ENDPOINT, "unknown-endpoint" },
				   { UTUN_DROP_NO_TUNNEL, "no-tunnel" }))
);

#endif /* _UTUN_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
