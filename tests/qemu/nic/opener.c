// SPDX-License-Identifier: GPL-2.0
/* opener.c: AES-GCM by the block (NIST SP 800-38D), with the kernel's AES and GF(2^128) libraries,
 * since its ciphers want a whole record and an adapter has none. */
#include "opener.h"

#include <crypto/utils.h>
#include <linux/unaligned.h>
#include <net/tls_prot.h>

enum { AAD_SIZE = 13 };

static void hash_block(struct opener *opener, const u8 *block)
{
	crypto_xor((u8 *)&opener->hash, block, sizeof(opener->hash));
	gf128mul_4k_lle(&opener->hash, opener->hash_key);
}

int opener_init(struct opener *opener, const struct tls_crypto_info *info)
{
	const struct tls12_crypto_info_aes_gcm_128 *gcm_128 = (const void *)info;
	const struct tls12_crypto_info_aes_gcm_256 *gcm_256 = (const void *)info;
	be128 hash_key = {};
	const u8 *seq;
	int r;

	if (info->version != TLS_1_2_VERSION)
		return -EOPNOTSUPP;
	switch (info->cipher_type) {
	case TLS_CIPHER_AES_GCM_128:
		r = aes_expandkey(&opener->aes, gcm_128->key, sizeof(gcm_128->key));
		memcpy(opener->salt, gcm_128->salt, sizeof(opener->salt));
		seq = gcm_128->rec_seq;
		break;
	case TLS_CIPHER_AES_GCM_256:
		r = aes_expandkey(&opener->aes, gcm_256->key, sizeof(gcm_256->key));
		memcpy(opener->salt, gcm_256->salt, sizeof(opener->salt));
		seq = gcm_256->rec_seq;
		break;
	default:
		return -EOPNOTSUPP;
	}
	if (r < 0)
		return r;
	aes_encrypt(&opener->aes, (u8 *)&hash_key, (u8 *)&hash_key);
	opener->hash_key = gf128mul_init_4k_lle(&hash_key);
	memzero_explicit(&hash_key, sizeof(hash_key));
	if (!opener->hash_key)
		return -ENOMEM;
	opener_start(opener, get_unaligned_be64(seq));
	return 0;
}

void opener_fini(struct opener *opener)
{
	kfree_sensitive(opener->hash_key);
	memzero_explicit(opener, sizeof(*opener));
}

void opener_start(struct opener *opener, u64 seq)
{
	opener->seq = seq;
	opener->at = 0;
}

static void begin_content(struct opener *opener)
{
	u8 aad[AES_BLOCK_SIZE] = {};

	memcpy(opener->counter, opener->salt, sizeof(opener->salt));
	memcpy(opener->counter + sizeof(opener->salt), opener->head + TLS_HEADER_SIZE,
	       TLS_CIPHER_AES_GCM_128_IV_SIZE);
	put_unaligned_be32(1, opener->counter + 12);
	aes_encrypt(&opener->aes, opener->tag_pad, opener->counter);
	put_unaligned_be64(opener->seq, aad);
	memcpy(aad + 8, opener->head, 3);	/* type, version */
	put_unaligned_be16(opener->size - OPENER_HEAD - OPENER_TAG, aad + 11);
	memset(&opener->hash, 0, sizeof(opener->hash));
	hash_block(opener, aad);
}

/* One piece of content, in one block. */
static void open_piece(struct opener *opener, u8 *data, u32 at, u32 len)
{
	u32 within = at % AES_BLOCK_SIZE;

	if (within == 0) {
		put_unaligned_be32(2 + at / AES_BLOCK_SIZE, opener->counter + 12);
		aes_encrypt(&opener->aes, opener->pad, opener->counter);
	}
	crypto_xor((u8 *)&opener->hash + within, data, len);
	if (within + len == AES_BLOCK_SIZE)
		gf128mul_4k_lle(&opener->hash, opener->hash_key);
	crypto_xor(data, opener->pad + within, len);
}

static bool end_content(struct opener *opener)
{
	u32 len = opener->size - OPENER_HEAD - OPENER_TAG;
	u8 lengths[AES_BLOCK_SIZE];

	if (len % AES_BLOCK_SIZE != 0)
		gf128mul_4k_lle(&opener->hash, opener->hash_key);
	put_unaligned_be64(8 * AAD_SIZE, lengths);
	put_unaligned_be64(8 * (u64)len, lengths + 8);
	hash_block(opener, lengths);
	crypto_xor((u8 *)&opener->hash, opener->tag_pad, OPENER_TAG);
	return crypto_memneq(&opener->hash, opener->tag, OPENER_TAG) == 0;
}

u32 opener_size(const u8 *header)
{
	u32 size = TLS_HEADER_SIZE + get_unaligned_be16(header + 3);

	if (header[0] < TLS_RECORD_TYPE_CHANGE_CIPHER_SPEC || header[0] > TLS_RECORD_TYPE_DATA ||
	    header[1] != TLS_1_2_VERSION_MAJOR || header[2] != TLS_1_2_VERSION_MINOR ||
	    size < OPENER_HEAD + OPENER_TAG ||
	    size > OPENER_HEAD + TLS_MAX_PAYLOAD_SIZE + OPENER_TAG)
		return 0;
	return size;
}

static int take_head(struct opener *opener, u8 byte)
{
	opener->head[opener->at++] = byte;
	if (opener->at == TLS_HEADER_SIZE) {
		opener->size = opener_size(opener->head);
		if (opener->size == 0)
			return -EBADMSG;
	}
	if (opener->at == OPENER_HEAD)
		begin_content(opener);
	return 0;
}

int opener_run(struct opener *opener, u8 *data, u32 len, u64 *records)
{
	while (len > 0) {
		u32 n = 1;

		if (opener->at < OPENER_HEAD) {
			if (take_head(opener, *data) < 0)
				return -EBADMSG;
		} else if (opener->at < opener->size - OPENER_TAG) {
			u32 at = opener->at - OPENER_HEAD;

			n = min3(len, opener->size - OPENER_TAG - opener->at,
				 AES_BLOCK_SIZE - at % AES_BLOCK_SIZE);
			open_piece(opener, data, at, n);
			opener->at += n;
		} else {
			n = min(len, opener->size - opener->at);
			memcpy(opener->tag + OPENER_TAG - (opener->size - opener->at), data, n);
			opener->at += n;
		}
		data += n;
		len -= n;
		if (opener->at > OPENER_HEAD && opener->at == opener->size) {
			if (!end_content(opener))
				return -EBADMSG;
			opener_start(opener, opener->seq + 1);
			++*records;
		}
	}
	return 0;
}
