// SPDX-License-Identifier: GPL-2.0
/* flow.c: a device's received TLS flows: each follows one TCP stream and opens its records while no
 * byte is missing; after a gap it looks for what may be a record's header, asks the kernel which
 * record that is and follows the headers from there until it is told (tls-offload.rst in the
 * kernel's documentation, "stream scan resynchronization"). Sealing needs no state here: the
 * kernel's records are at hand when a frame goes out. */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/unaligned.h>
#include <net/inet_sock.h>
#include <net/tcp.h>

#include "nic.h"
#include "opener.h"

static unsigned int refuse;
module_param(refuse, uint, 0644);
MODULE_PARM_DESC(refuse, "new connections have no offload: 1 sending, 2 receiving, 3 both");

enum flow_state {
	FLOW_OPENS,			/* what is at next belongs to the record under way */
	FLOW_SEARCHES,
	FLOW_FOLLOWS			/* a record may begin at header */
};

struct flow {
	struct list_head list;
	struct sock *sk;		/* borrowed until it is deleted */
	struct in6_addr local, remote;	/* IPv4 as ::ffff:a.b.c.d */
	__be16 local_port, remote_port;
	enum flow_state state;
	u32 next;			/* TCP's sequence number */
	struct opener opener;
	/* while it follows */
	u32 asked, header;		/* where the first one begins, and the next */
	u64 first, since;		/* number of that one, once told; headers after it */
	bool told;
};

static bool addresses(const struct sk_buff *frame, struct in6_addr *from, struct in6_addr *to)
{
	if (frame->protocol == htons(ETH_P_IP)) {
		ipv6_addr_set_v4mapped(ip_hdr(frame)->saddr, from);
		ipv6_addr_set_v4mapped(ip_hdr(frame)->daddr, to);
		return true;
	}
	*from = ipv6_hdr(frame)->saddr;
	*to = ipv6_hdr(frame)->daddr;
	return frame->protocol == htons(ETH_P_IPV6);
}

static struct flow *flow_of(struct nic *nic, const struct sk_buff *frame)
{
	const struct tcphdr *tcp = tcp_hdr(frame);
	struct in6_addr from, to;
	struct flow *flow;

	if (!addresses(frame, &from, &to))
		return NULL;
	list_for_each_entry(flow, &nic->flows, list)
		if (flow->local_port == tcp->dest && flow->remote_port == tcp->source &&
		    ipv6_addr_equal(&flow->local, &to) && ipv6_addr_equal(&flow->remote, &from))
			return flow;
	return NULL;
}

/* The frame's data from skip on, opened in a copy, since the sender may have to send it again;
 * NULL: as it came. */
static struct sk_buff *open_frame(struct nic *nic, struct flow *flow, struct sk_buff *frame,
				  u32 data, u32 skip)
{
	u32 len = frame->len - data;
	struct sk_buff *copy = skb_copy(frame, GFP_ATOMIC);
	u64 records = 0;

	flow->state = FLOW_SEARCHES;
	if (!copy)
		return NULL;
	if (opener_run(&flow->opener, copy->data + data + skip, len - skip, &records) < 0) {
		nic_count(nic, RX_BAD, 1);
		kfree_skb(copy);
		return NULL;
	}
	flow->state = FLOW_OPENS;
	flow->next = ntohl(tcp_hdr(frame)->seq) + len;
	nic_count(nic, RX_OPENED_RECORDS, records);
	if (skip > 0) {			/* a frame is either opened or not */
		kfree_skb(copy);
		return NULL;
	}
	copy->decrypted = 1;
	nic_count(nic, RX_OPENED_FRAMES, 1);
	nic_count(nic, RX_OPENED_BYTES, len);
	return copy;
}

/* The kernel wants to be asked, and answers, by a header's last byte. */
static u32 asked_at(const struct flow *flow)
{
	return flow->asked + TLS_HEADER_SIZE - 1;
}

static void ask(struct nic *nic, struct flow *flow, u32 header)
{
	flow->state = FLOW_FOLLOWS;
	flow->asked = header;
	flow->since = 0;
	flow->told = false;
	tls_offload_rx_resync_request(flow->sk, htonl(asked_at(flow)));
	nic_count(nic, RX_RESYNCS_ASKED, 1);
}

/* Looks for headers in len bytes at seq that came in the clear. Where a record begins whose number
 * is known, the opener being set to it; len: nowhere. A header cut in two is not seen. */
static u32 follow(struct nic *nic, struct flow *flow, u32 seq, const u8 *data, u32 len)
{
	u32 at = 0;

	if (flow->state == FLOW_FOLLOWS && before(seq, flow->next))
		return len;		/* seen already */
	if (flow->state == FLOW_FOLLOWS && seq == flow->next)
		at = flow->header - seq;
	else
		flow->state = FLOW_SEARCHES;
	while (at + TLS_HEADER_SIZE <= len) {
		u32 size = opener_size(data + at);

		if (size == 0) {
			flow->state = FLOW_SEARCHES;
			at++;
			continue;
		}
		if (flow->state == FLOW_SEARCHES) {
			ask(nic, flow, seq + at);
		} else {
			flow->since++;
			if (flow->told) {
				opener_start(&flow->opener, flow->first + flow->since);
				return at;
			}
		}
		at += size;
	}
	if (at < len)
		flow->state = FLOW_SEARCHES;
	flow->header = seq + at;
	flow->next = seq + len;
	return len;
}

static struct sk_buff *flow_frame(struct nic *nic, struct flow *flow, struct sk_buff *frame,
				  u32 data)
{
	u32 seq = ntohl(tcp_hdr(frame)->seq), len = frame->len - data, at;

	if (flow->state == FLOW_OPENS) {
		if (seq == flow->next)
			return open_frame(nic, flow, frame, data, 0);
		if (before(seq, flow->next))
			return NULL;
	}
	if (skb_linearize(frame) != 0)
		return NULL;
	at = follow(nic, flow, seq, frame->data + data, len);
	return at < len ? open_frame(nic, flow, frame, data, at) : NULL;
}

struct sk_buff *flow_receive(struct net_device *dev, struct sk_buff *frame)
{
	struct nic *nic = netdev_priv(dev);
	u32 data = nic_tcp_data(frame);
	struct sk_buff *opened = NULL;
	struct flow *flow;

	if (data == 0 || list_empty(&nic->flows))
		return frame;
	spin_lock(&nic->lock);
	flow = flow_of(nic, frame);
	if (flow) {
		opened = flow_frame(nic, flow, frame, data);
		if (!opened)
			nic_count(nic, RX_SKIPPED, 1);
	}
	spin_unlock(&nic->lock);
	if (!opened)
		return frame;
	consume_skb(frame);
	return opened;
}

static int add_receiver(struct nic *nic, struct sock *sk, const struct tls_crypto_info *info,
			u32 seq)
{
	struct flow *flow = kzalloc(sizeof(*flow), GFP_KERNEL);
	int r = flow ? opener_init(&flow->opener, info) : -ENOMEM;

	if (r < 0) {
		kfree_sensitive(flow);
		return r;
	}
	if (sk->sk_family == AF_INET) {
		ipv6_addr_set_v4mapped(sk->sk_rcv_saddr, &flow->local);
		ipv6_addr_set_v4mapped(sk->sk_daddr, &flow->remote);
	} else {
		flow->local = sk->sk_v6_rcv_saddr;
		flow->remote = sk->sk_v6_daddr;
	}
	flow->local_port = inet_sk(sk)->inet_sport;
	flow->remote_port = inet_sk(sk)->inet_dport;
	flow->sk = sk;
	flow->next = seq;
	/* What waits to be read was never seen here. */
	flow->state = tcp_sk(sk)->rcv_nxt == seq ? FLOW_OPENS : FLOW_SEARCHES;
	tls_offload_rx_resync_set_type(sk, TLS_OFFLOAD_SYNC_TYPE_DRIVER_REQ);
	*(struct flow **)tls_driver_ctx(sk, TLS_OFFLOAD_CTX_DIR_RX) = flow;
	spin_lock_bh(&nic->lock);
	list_add(&flow->list, &nic->flows);
	spin_unlock_bh(&nic->lock);
	nic_count(nic, RX_CONTEXTS, 1);
	return 0;
}

static int flow_add(struct net_device *dev, struct sock *sk, enum tls_offload_ctx_dir direction,
		    struct tls_crypto_info *info, u32 seq)
{
	struct nic *nic = netdev_priv(dev);

	if (READ_ONCE(refuse) & (direction == TLS_OFFLOAD_CTX_DIR_TX ? 1 : 2))
		return -ENOSPC;
	if (direction == TLS_OFFLOAD_CTX_DIR_RX)
		return add_receiver(nic, sk, info, seq);
	nic_count(nic, TX_CONTEXTS, 1);
	return 0;
}

static void flow_delete(struct net_device *dev, struct tls_context *context,
			enum tls_offload_ctx_dir direction)
{
	struct nic *nic = netdev_priv(dev);
	struct flow *flow;

	if (direction == TLS_OFFLOAD_CTX_DIR_TX)
		return;
	flow = *(struct flow **)__tls_driver_ctx(context, direction);
	spin_lock_bh(&nic->lock);
	list_del(&flow->list);
	spin_unlock_bh(&nic->lock);
	opener_fini(&flow->opener);
	kfree(flow);
	nic_count(nic, RX_CONTEXTS_DELETED, 1);
}

/* The kernel's answer: what was asked about at seq is this record. */
static int flow_resync(struct net_device *dev, struct sock *sk, u32 seq, u8 *record,
		       enum tls_offload_ctx_dir direction)
{
	struct nic *nic = netdev_priv(dev);
	struct flow *flow;

	if (direction != TLS_OFFLOAD_CTX_DIR_RX)
		return -EOPNOTSUPP;
	flow = *(struct flow **)tls_driver_ctx(sk, direction);
	spin_lock_bh(&nic->lock);
	if (flow->state == FLOW_FOLLOWS && asked_at(flow) == seq) {
		flow->first = get_unaligned_be64(record);
		flow->told = true;
		nic_count(nic, RX_RESYNCS, 1);
	}
	spin_unlock_bh(&nic->lock);
	return 0;
}

const struct tlsdev_ops flow_ops = {
	.tls_dev_add = flow_add,
	.tls_dev_del = flow_delete,
	.tls_dev_resync = flow_resync,
};
