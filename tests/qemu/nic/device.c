// SPDX-License-Identifier: GPL-2.0
/* device.c: the devices, their cable and its faults, their counters. */
#include "nic.h"

#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/module.h>
#include <net/tcp.h>

static unsigned int lose;
module_param(lose, uint, 0644);
MODULE_PARM_DESC(lose, "each so many-th frame with data is lost on the cable; 0 none");
static unsigned int flip;
module_param(flip, uint, 0644);
MODULE_PARM_DESC(flip, "each so many-th sealed frame has a bit turned over on the cable; 0 none");

#define TLS_FEATURES (NETIF_F_HW_TLS_TX | NETIF_F_HW_TLS_RX)

static const char count_names[NIC_COUNTS][ETH_GSTRING_LEN] = {
	[TX_SEALED_FRAMES] = "tx_tls_encrypted_packets",
	[TX_SEALED_BYTES] = "tx_tls_encrypted_bytes",
	[TX_SEALING] = "tx_tls_encrypt_cycles",
	[TX_CONTEXTS] = "tx_tls_ctx",
	[TX_DROPPED] = "tx_tls_drop_no_sync_data",
	[TX_LOST] = "tx_lost",
	[RX_OPENED_FRAMES] = "rx_tls_decrypted_packets",
	[RX_OPENED_BYTES] = "rx_tls_decrypted_bytes",
	[RX_OPENED_RECORDS] = "rx_tls_records",
	[RX_CONTEXTS] = "rx_tls_ctx",
	[RX_CONTEXTS_DELETED] = "rx_tls_del",
	[RX_RESYNCS_ASKED] = "rx_tls_resync_req_pkt",
	[RX_RESYNCS] = "rx_tls_resync_res_ok",
	[RX_SKIPPED] = "rx_tls_skipped",
	[RX_BAD] = "rx_tls_err",
};

static struct net_device *devices[2], *wire;

u32 nic_tcp_data(const struct sk_buff *frame)
{
	bool tcp = (frame->protocol == htons(ETH_P_IP) && ip_hdr(frame)->protocol == IPPROTO_TCP) ||
		   (frame->protocol == htons(ETH_P_IPV6) && ipv6_hdr(frame)->nexthdr == IPPROTO_TCP);
	u32 data = tcp ? skb_tcp_all_headers(frame) : 0;

	return data < frame->len ? data : 0;
}

static bool every(struct nic *nic, unsigned int n)
{
	return n > 0 && atomic_read(&nic->frames) % n == 0;
}

/* A frame arrives at dev, or is lost there. */
static void arrive(struct net_device *dev, struct sk_buff *frame)
{
	u32 len = frame->len;

	if (!(READ_ONCE(dev->flags) & IFF_UP))
		kfree_skb(frame);
	else if (dev_forward_skb(dev, frame) == NET_RX_SUCCESS)
		dev_sw_netstats_rx_add(dev, len);
}

static netdev_tx_t nic_xmit(struct sk_buff *frame, struct net_device *dev)
{
	struct nic *nic = netdev_priv(dev);
	u32 data = nic_tcp_data(frame), len = frame->len;
	bool sealed = false;

	if (data > 0 && tls_is_skb_tx_device_offloaded(frame)) {
		struct sk_buff *plain = frame;
		cycles_t began = get_cycles();

		frame = tls_encrypt_skb(plain);	/* consumes it in every case */
		nic_count(nic, TX_SEALING, get_cycles() - began);
		if (!frame) {
			nic_count(nic, TX_DROPPED, 1);
			return NETDEV_TX_OK;
		}
		skb_mark_not_on_list(frame);	/* a list of itself, made for the kernel's own use */
		frame->prev = NULL;
		sealed = frame != plain;
	}
	if (sealed) {
		nic_count(nic, TX_SEALED_FRAMES, 1);
		nic_count(nic, TX_SEALED_BYTES, len - data);
	}
	dev_sw_netstats_tx_add(dev, 1, len);
	/* The sender's mark; the receiver would take ciphertext for opened. */
	frame->decrypted = 0;
	if (data > 0)
		atomic_inc(&nic->frames);
	if (data > 0 && every(nic, READ_ONCE(lose))) {
		nic_count(nic, TX_LOST, 1);
		kfree_skb(frame);
		return NETDEV_TX_OK;
	}
	if (sealed && every(nic, READ_ONCE(flip)) && !skb_is_nonlinear(frame))
		frame->data[frame->len - 1] ^= 1;
	if (READ_ONCE(wire->flags) & IFF_UP) {
		struct sk_buff *heard = skb_clone(frame, GFP_ATOMIC);

		if (heard)
			arrive(wire, heard);
	}
	arrive(nic->peer, flow_receive(nic->peer, frame));
	return NETDEV_TX_OK;
}

static netdev_tx_t wire_xmit(struct sk_buff *frame, struct net_device *dev)
{
	kfree_skb(frame);		/* it listens */
	return NETDEV_TX_OK;
}

static int nic_open(struct net_device *dev)
{
	struct nic *nic = netdev_priv(dev);

	if (nic->peer->flags & IFF_UP) {
		netif_carrier_on(dev);
		netif_carrier_on(nic->peer);
	}
	return 0;
}

static int nic_stop(struct net_device *dev)
{
	struct nic *nic = netdev_priv(dev);

	netif_carrier_off(dev);
	netif_carrier_off(nic->peer);
	return 0;
}

static const struct net_device_ops nic_ops = {
	.ndo_open = nic_open,
	.ndo_stop = nic_stop,
	.ndo_start_xmit = nic_xmit,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
	.ndo_features_check = passthru_features_check,
};

static const struct net_device_ops wire_ops = {
	.ndo_start_xmit = wire_xmit,
};

static void nic_info(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, "sluice_nic", sizeof(info->driver));
}

static int nic_count_of(struct net_device *dev, int set)
{
	return set == ETH_SS_STATS ? NIC_COUNTS : -EOPNOTSUPP;
}

static void nic_names(struct net_device *dev, u32 set, u8 *ret)
{
	if (set == ETH_SS_STATS)
		memcpy(ret, count_names, sizeof(count_names));
}

static void nic_counts(struct net_device *dev, struct ethtool_stats *stats, u64 *ret)
{
	struct nic *nic = netdev_priv(dev);

	for (int i = 0; i < NIC_COUNTS; i++)
		ret[i] = atomic64_read(&nic->counts[i]);
}

static const struct ethtool_ops nic_ethtool = {
	.get_drvinfo = nic_info,
	.get_link = ethtool_op_get_link,
	.get_sset_count = nic_count_of,
	.get_strings = nic_names,
	.get_ethtool_stats = nic_counts,
};

static void setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_NO_QUEUE;
	dev->lltx = true;
	dev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	dev->max_mtu = ETH_MAX_MTU;
	eth_hw_addr_random(dev);
}

static void setup_nic(struct net_device *dev)
{
	struct nic *nic = netdev_priv(dev);

	setup(dev);
	spin_lock_init(&nic->lock);
	INIT_LIST_HEAD(&nic->flows);
	dev->netdev_ops = &nic_ops;
	dev->ethtool_ops = &nic_ethtool;
	dev->tlsdev_ops = &flow_ops;	/* the tls module looks when a device is registered */
	dev->features |= NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM | NETIF_F_HIGHDMA |
			 NETIF_F_TSO | NETIF_F_TSO6 | TLS_FEATURES;
	dev->hw_features |= dev->features;
}

static void setup_wire(struct net_device *dev)
{
	setup(dev);
	dev->netdev_ops = &wire_ops;
	dev->flags |= IFF_NOARP;
}

static void nic_exit(void)
{
	struct net_device *all[] = {devices[0], devices[1], wire};

	for (int i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i] && all[i]->reg_state == NETREG_REGISTERED)
			unregister_netdev(all[i]);
	for (int i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i])
			free_netdev(all[i]);
}

static int __init nic_init(void)
{
	int r = -ENOMEM;

	wire = alloc_netdev(0, "wire%d", NET_NAME_ENUM, setup_wire);
	for (int i = 0; i < ARRAY_SIZE(devices); i++)
		devices[i] = alloc_netdev(sizeof(struct nic), "nic%d", NET_NAME_ENUM, setup_nic);
	if (!wire || !devices[0] || !devices[1])
		goto err;
	for (int i = 0; i < ARRAY_SIZE(devices); i++)
		((struct nic *)netdev_priv(devices[i]))->peer = devices[1 - i];
	r = register_netdev(wire);
	for (int i = 0; r == 0 && i < ARRAY_SIZE(devices); i++) {
		netif_carrier_off(devices[i]);
		r = register_netdev(devices[i]);
	}
	if (r == 0)
		return 0;
err:
	nic_exit();
	return r;
}

module_init(nic_init);
module_exit(nic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sluice's test adapter: two joined devices with TLS offload");
MODULE_SOFTDEP("pre: tls");
