/* record_control.c: messages may share a record or span several; bodies of tickets are skipped. */
#include "record_control.h"

enum {
    NEW_SESSION_TICKET = 4,      /* a handshake message's type */
    MESSAGE_HEAD = 4,
    TICKET_MIN = 14, TICKET_MAX = 1 << 17,
    SILENT_MAX = 32,             /* records in a row without a byte of data */
};

const uint8_t record_key_update[KEY_UPDATE_SIZE] = {RECORD_KEY_UPDATE, 0, 0, 1,
                                                    0 /* update_not_requested */};

static struct control_verdict go_on(void)
{
    return (struct control_verdict){.action = CONTROL_GO_ON};
}

static struct control_verdict fail(uint8_t alert, const char *why)
{
    return (struct control_verdict){.action = CONTROL_FAIL, .alert = alert, .why = why};
}

bool record_control_inside(const struct record_control *control)
{
    return control->head_len > 0 || control->rest > 0;
}

static struct control_verdict on_alerts(struct record_control *control, const uint8_t *data,
                                        size_t len)
{
    for (size_t i = 0; i < len; i++) {
        control->alert[control->alert_len++] = data[i];
        if (control->alert_len < ALERT_SIZE)
            continue;
        control->alert_len = 0;
        uint8_t alert = control->alert[1];
        if (alert == ALERT_USER_CANCELED)
            continue;
        /* In TLS 1.3 every other alert is fatal, whatever its level says; TLS 1.2 lets us choose
         * (RFC 5246, 7.2.2). */
        uint8_t action = alert == ALERT_CLOSE_NOTIFY ? CONTROL_END : CONTROL_PEER_FAILED;
        return (struct control_verdict){.action = action, .alert = alert};
    }
    return go_on();
}

static struct control_verdict on_key_update(const uint8_t *head, size_t behind)
{
    if (head[4] > 1)
        return fail(ALERT_ILLEGAL_PARAMETER, "malformed KeyUpdate");
    if (behind > 0) /* what follows it is under the next key */
        return fail(ALERT_UNEXPECTED_MESSAGE, "KeyUpdate is not the last of its record");
    return (struct control_verdict){.action = CONTROL_KEY_UPDATE, .update_requested = head[4] == 1};
}

static struct control_verdict on_messages(struct record_control *control, const uint8_t *data,
                                          size_t len)
{
    const uint8_t *head = control->head;
    while (len > 0) {
        if (control->rest > 0) {
            size_t n = control->rest < len ? control->rest : len;
            control->rest -= (uint32_t)n;
            data += n;
            len -= n;
            continue;
        }
        control->head[control->head_len++] = *data++;
        len--;
        if (control->head_len < MESSAGE_HEAD)
            continue;
        uint32_t size = (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
        if (head[0] == NEW_SESSION_TICKET && !control->is_server) {
            if (size < TICKET_MIN || size > TICKET_MAX)
                return fail(ALERT_DECODE_ERROR, "malformed NewSessionTicket");
            control->rest = size;
        } else if (head[0] == RECORD_KEY_UPDATE) {
            if (size != 1)
                return fail(ALERT_DECODE_ERROR, "malformed KeyUpdate");
            if (control->head_len < MESSAGE_HEAD + 1)
                continue;
            control->head_len = 0;
            return on_key_update(head, len);
        } else {
            return fail(ALERT_UNEXPECTED_MESSAGE, "handshake message after the handshake");
        }
        control->head_len = 0;
    }
    return go_on();
}

static bool is_too_silent(struct record_control *control)
{
    if (control->silent >= SILENT_MAX)
        return true;
    control->silent++;
    return false;
}

struct control_verdict record_control_take(struct record_control *control, uint8_t type,
                                           const uint8_t *data, size_t len)
{
    assert(len > 0);
    /* What only goes on with a message or an alert is counted already. */
    bool goes_on = type == RECORD_HANDSHAKE ? record_control_inside(control)
                                            : control->alert_len > 0;
    if (type == RECORD_DATA)
        control->silent = 0;
    else if (!goes_on && is_too_silent(control))
        return fail(ALERT_UNEXPECTED_MESSAGE, "too many records without data");
    if (type == RECORD_HANDSHAKE && control->tls12)
        return fail(ALERT_UNEXPECTED_MESSAGE, "peer would negotiate again");
    if (type == RECORD_HANDSHAKE)
        return on_messages(control, data, len);
    if (record_control_inside(control))
        return fail(ALERT_UNEXPECTED_MESSAGE, "record inside a handshake message");
    if (type == RECORD_ALERT)
        return on_alerts(control, data, len);
    if (type != RECORD_DATA)
        return fail(ALERT_UNEXPECTED_MESSAGE, "record of an unknown type");
    return go_on();
}

struct control_verdict record_control_empty(struct record_control *control, uint8_t type)
{
    if (type != RECORD_DATA)
        return fail(ALERT_UNEXPECTED_MESSAGE, "empty record that is not data");
    if (record_control_inside(control))
        return fail(ALERT_UNEXPECTED_MESSAGE, "record inside a handshake message");
    if (is_too_silent(control))
        return fail(ALERT_UNEXPECTED_MESSAGE, "too many records without data");
    return go_on();
}
