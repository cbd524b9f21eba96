/* record_control.h: what comes beside data once a handshake is done: alerts and, in TLS 1.3,
 * handshake messages, RFC 8446 sections 4.6 and 6. Judges bytes; performs no I/O and keeps no key. */
#ifndef SLUICE_RECORD_CONTROL_H
#define SLUICE_RECORD_CONTROL_H

#include "base.h"

enum record_type { RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_DATA = 23 };
enum record_alert {
    ALERT_CLOSE_NOTIFY = 0, ALERT_UNEXPECTED_MESSAGE = 10, ALERT_BAD_RECORD_MAC = 20,
    ALERT_RECORD_OVERFLOW = 22, ALERT_ILLEGAL_PARAMETER = 47, ALERT_DECODE_ERROR = 50,
    ALERT_INTERNAL_ERROR = 80, ALERT_USER_CANCELED = 90,
};
enum { ALERT_WARNING = 1, ALERT_FATAL = 2, ALERT_SIZE = 2 };
enum { RECORD_KEY_UPDATE = 24, KEY_UPDATE_SIZE = 5 }; /* a handshake message: its type, its size */
/* Ours. The answer that the peer might give to it is not wanted: its key is its own business. */
extern const uint8_t record_key_update[KEY_UPDATE_SIZE];

enum control_action {
    CONTROL_GO_ON,
    CONTROL_END,                 /* close_notify */
    CONTROL_KEY_UPDATE,          /* the peer's next record is under its next key */
    CONTROL_PEER_FAILED,         /* by the peer's alert */
    CONTROL_FAIL,                /* the peer broke the protocol: alert is what to send */
};

struct control_verdict {
    uint8_t action;              /* enum control_action */
    uint8_t alert;               /* enum record_alert */
    bool update_requested;       /* KEY_UPDATE: the peer asks for ours */
    const char *why;             /* FAIL; static */
};

struct record_control {          /* zeroed, then is_server and tls12 set */
    bool is_server;
    bool tls12;                  /* where every handshake message would be a renegotiation */
    uint8_t silent;              /* records since the last byte of data */
    uint8_t head[KEY_UPDATE_SIZE], head_len; /* of a handshake message as it comes in */
    uint32_t rest;               /* of its body, which is for others */
    uint8_t alert[ALERT_SIZE], alert_len;
};

/* The next bytes of this content type, never none of them; they may be a record, a part of one or
 * several. Of a verdict other than GO_ON the bytes behind it do not matter. */
struct control_verdict record_control_take(struct record_control *control, uint8_t type,
                                           const uint8_t *data, size_t len);
/* A record without content. */
struct control_verdict record_control_empty(struct record_control *control, uint8_t type);
bool record_control_inside(const struct record_control *control); /* a handshake message */

#endif
