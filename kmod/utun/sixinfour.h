/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Protocol 41.
 */
#ifndef _UTUN_SIXINFOUR_H
#define _UTUN_SIXINFOUR_H

int utun_sixinfour_register(void);
void utun_sixinfour_unregister(void);

#endif /* _UTUN_SIXINFOUR_H */
