/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From inner packets to outer ones.
 */
#ifndef _UTUN_TX_H
#define _UTUN_TX_H

#include <linux/netdevice.h>

netdev_tx_t utun_tx(struct sk_buff *skb, struct net_device *dev);

#endif /* _UTUN_TX_H */
