/* SPDX-License-Identifier: GPL-2.0 */
/* opener.h: opens TLS 1.2 AES-GCM records in place as their bytes come, in pieces of any size, as
 * an adapter does that sees frames. Knows no TCP. */
#ifndef SLUICE_NIC_OPENER_H
#define SLUICE_NIC_OPENER_H

#include <crypto/aes.h>
#include <crypto/gf128mul.h>
#include <net/tls.h>

enum { OPENER_HEAD = TLS_HEADER_SIZE + TLS_CIPHER_AES_GCM_128_IV_SIZE, OPENER_TAG = 16 };

struct opener {
	struct crypto_aes_ctx aes;
	struct gf128mul_4k *hash_key;	/* owned */
	u8 salt[TLS_CIPHER_AES_GCM_128_SALT_SIZE];
	u64 seq;			/* of the record that comes */
	/* of the record under way */
	u32 at, size;			/* bytes seen; of all of it, once its header is there */
	u8 head[OPENER_HEAD], tag[OPENER_TAG];
	u8 counter[AES_BLOCK_SIZE], pad[AES_BLOCK_SIZE], tag_pad[AES_BLOCK_SIZE];
	be128 hash;
};

/* 0; -EOPNOTSUPP: not TLS 1.2 with AES-GCM; -ENOMEM. */
int opener_init(struct opener *opener, const struct tls_crypto_info *info);
void opener_fini(struct opener *opener);
/* What comes next is the first byte of this record. */
void opener_start(struct opener *opener, u64 seq);
/* Of the record that begins with this header of TLS_HEADER_SIZE; 0: it is none. */
u32 opener_size(const u8 *header);
/* Opens data in place; *records counts those that ended. -EBADMSG: nothing of it may be used. */
int opener_run(struct opener *opener, u8 *data, u32 len, u64 *records);

#endif
