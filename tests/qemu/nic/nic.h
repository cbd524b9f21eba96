/* SPDX-License-Identifier: GPL-2.0 */
/* nic.h: the test adapter: two Ethernet devices, nic0 and nic1, joined by a cable, which offer TLS
 * offload in both directions, and wire0, which hears what crosses the cable. For tests alone.
 *
 *   host's TCP ──> nic0: seals ══════╤══════> nic1: opens ──> the other host's TCP
 *                                  wire0
 */
#ifndef SLUICE_NIC_H
#define SLUICE_NIC_H

#include <linux/netdevice.h>
#include <net/tls.h>

/* As Documentation/networking/tls-offload.rst names them; tx_tls_encrypt_cycles (what a card
 * does by itself), rx_tls_records, …_skipped and tx_lost are ours. */
enum nic_count {
	TX_SEALED_FRAMES, TX_SEALED_BYTES, TX_SEALING, TX_CONTEXTS, TX_DROPPED, TX_LOST,
	RX_OPENED_FRAMES, RX_OPENED_BYTES, RX_OPENED_RECORDS, RX_CONTEXTS, RX_CONTEXTS_DELETED,
	RX_RESYNCS_ASKED, RX_RESYNCS, RX_SKIPPED, RX_BAD, NIC_COUNTS
};

struct nic {
	struct net_device *peer;	/* borrowed: the cable's other end */
	spinlock_t lock;		/* of flows and what is in them */
	struct list_head flows;		/* of struct flow, owned */
	atomic64_t counts[NIC_COUNTS];
	atomic_t frames;		/* with data, for the faults */
};

static inline void nic_count(struct nic *nic, enum nic_count which, u64 n)
{
	atomic64_add(n, &nic->counts[which]);
}

/* Where a frame's TCP data begins; 0 = it has none. */
u32 nic_tcp_data(const struct sk_buff *frame);

extern const struct tlsdev_ops flow_ops;
/* Opens what belongs to a flow of dev's; frame, or what takes its place. */
struct sk_buff *flow_receive(struct net_device *dev, struct sk_buff *frame);

#endif
