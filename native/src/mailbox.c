/* mailbox.c: a stack that is reversed when it is taken. Only the first message of a batch rings. */
#include "mailbox.h"

#include <stdlib.h>

#include "sys.h"

int mailbox_init(struct mailbox *mailbox)
{
    int fd = sys->eventfd(0);
    if (fd < 0)
        return fd;
    atomic_init(&mailbox->newest, NULL);
    atomic_init(&mailbox->returned, NULL);
    mailbox->fd = fd;
    return 0;
}

static void free_all(struct message *message)
{
    while (message != NULL) {
        struct message *next = message->next;
        message_free(message);
        message = next;
    }
}

void mailbox_fini(struct mailbox *mailbox)
{
    free_all(mailbox_take(mailbox));
    mailbox_collect(mailbox);
    sys->close(mailbox->fd);
}

/* True: the stack was empty. */
static bool push(_Atomic(struct message *) *stack, struct message *message)
{
    struct message *newest = atomic_load_explicit(stack, memory_order_relaxed);
    do
        message->next = newest;
    while (!atomic_compare_exchange_weak_explicit(stack, &newest, message, memory_order_release,
                                                  memory_order_relaxed));
    return newest == NULL;
}

static struct message *pop_all(_Atomic(struct message *) *stack)
{
    if (atomic_load_explicit(stack, memory_order_relaxed) == NULL)
        return NULL;
    return atomic_exchange_explicit(stack, NULL, memory_order_acquire);
}

void mailbox_put_take(struct mailbox *mailbox, struct message *message)
{
    if (push(&mailbox->newest, message)) {
        const uint64_t one = 1;
        (void)!sys->write(mailbox->fd, &one, sizeof(one)); /* full = it is ringing already */
    }
}

struct message *mailbox_take(struct mailbox *mailbox)
{
    struct message *newest = pop_all(&mailbox->newest), *oldest = NULL;
    while (newest != NULL) {
        struct message *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

void mailbox_return_take(struct mailbox *mailbox, struct message *message)
{
    (void)push(&mailbox->returned, message);
}

void mailbox_collect(struct mailbox *mailbox)
{
    free_all(pop_all(&mailbox->returned));
}

void mailbox_clear(struct mailbox *mailbox)
{
    uint64_t count;
    (void)!sys->read(mailbox->fd, &count, sizeof(count)); /* -EAGAIN = was clear */
}

struct message *message_new(enum message_kind kind)
{
    struct message *message = calloc(1, sizeof(*message));
    if (message != NULL)
        message->kind = kind;
    return message;
}

void message_free(struct message *message)
{
    if (message == NULL)
        return;
    snapshot_unref(message->snapshot);
    sets_free(message->sets);
    endpoints_unref(message->endpoints);
    free(message->lost);
    free(message);
}
