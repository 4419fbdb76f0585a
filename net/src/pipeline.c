/*
 * pipeline.c: one-way messages, carried by calls whose answer is empty.
 *
 * Not by nng's push and pull: a push socket of nng 1.5.2 that loses its connection just after it
 * has sent a message keeps the dead connection in its list, and the next message crashes the
 * process. Calls have no such list and keep their order (docs/decisions, 004).
 * The answers tell what has arrived, which lingering needs; nothing is repeated because of them.
 */
#include <qnet/pipeline.h>

#include <pthread.h>
#include <stdlib.h>

#include <nng/nng.h>
#include <nng/supplemental/util/platform.h>

#include <qbase/assert.h>
#include <qbase/list.h>
#include <qnet/caller.h>
#include <qnet/server.h>

enum {
    QUEUE_MAX_DEFAULT = 1024,
};

/* A place in the queue. */
struct slot {
    struct qnet_pusher *pusher;
    struct q_list node; /* in pusher.free */
    struct slot *other; /* the one made before */
    struct qnet_request request;
};

struct qnet_pusher {
    struct qnet_caller *caller;
    unsigned queue_max;

    pthread_mutex_t lock; /* guards what follows */
    struct q_list free;
    struct slot *last_made;
    unsigned waiting; /* slots that are not free */
};

struct qnet_puller {
    struct qnet_server *server;
    void *context;
    void (*on_message)(void *context, struct qnet_buffer *buffer);
};

static unsigned count_waiting(struct qnet_pusher *pusher);
static enum q_err take_slot(struct qnet_pusher *pusher, struct slot **ret_slot);
static struct slot *slot_new(struct qnet_pusher *pusher);
static void give_slot(struct slot *slot);
static void on_taken(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);
static void on_call(void *context, struct qnet_call *call);

enum q_err
qnet_pusher_new(const struct qnet_pusher_options *options, struct qnet_pusher **ret_pusher)
{
    struct qnet_pusher *pusher = calloc(1, sizeof(*pusher));
    if (pusher == NULL) return Q_FAIL(Q_E_NOMEM, .path = options->url);
    pusher->queue_max = options->queue_max == 0 ? QUEUE_MAX_DEFAULT : options->queue_max;
    q_list_init(&pusher->free);

    struct qnet_caller_options caller_options = { .url = options->url };
    enum q_err err = qnet_caller_new(&caller_options, &pusher->caller);
    if (err != Q_OK) {
        free(pusher);
        return err;
    }
    Q_ASSERT(pthread_mutex_init(&pusher->lock, NULL) == 0);
    *ret_pusher = pusher;
    return Q_OK;
}

void
qnet_pusher_free(struct qnet_pusher *pusher, uint64_t linger_ms)
{
    if (pusher == NULL) return;

    for (uint64_t ms = 0; ms < linger_ms && count_waiting(pusher) > 0; ms++) {
        nng_msleep(1);
    }
    qnet_caller_free(pusher->caller);
    while (pusher->last_made != NULL) {
        struct slot *slot = pusher->last_made;
        pusher->last_made = slot->other;
        free(slot);
    }
    pthread_mutex_destroy(&pusher->lock);
    free(pusher);
}

static unsigned
count_waiting(struct qnet_pusher *pusher)
{
    pthread_mutex_lock(&pusher->lock);
    unsigned waiting = pusher->waiting;
    pthread_mutex_unlock(&pusher->lock);
    return waiting;
}

enum q_err
qnet_pusher_push(struct qnet_pusher *pusher, struct qnet_buffer *buffer)
{
    struct slot *slot = NULL;
    Q_TRY(take_slot(pusher, &slot));
    slot->request.buffer = buffer;
    enum q_err err = qnet_caller_submit(pusher->caller, &slot->request);
    if (err != Q_OK) give_slot(slot);
    return err;
}

static enum q_err
take_slot(struct qnet_pusher *pusher, struct slot **ret_slot)
{
    pthread_mutex_lock(&pusher->lock);
    bool is_full = pusher->waiting >= pusher->queue_max;
    struct q_list *node = q_list_pop_front(&pusher->free);
    struct slot *slot = NULL;
    if (node != NULL) {
        slot = q_container_of(node, struct slot, node);
    } else if (!is_full) {
        slot = slot_new(pusher);
    }
    if (slot != NULL) pusher->waiting++;
    pthread_mutex_unlock(&pusher->lock);

    if (slot == NULL) return is_full ? Q_BUSY : Q_FAIL(Q_E_NOMEM);
    *ret_slot = slot;
    return Q_OK;
}

static struct slot *
slot_new(struct qnet_pusher *pusher)
{
    struct slot *slot = calloc(1, sizeof(*slot));
    if (slot == NULL) return NULL;
    slot->pusher = pusher;
    slot->request.done = on_taken;
    slot->request.context = slot;
    slot->other = pusher->last_made;
    pusher->last_made = slot;
    return slot;
}

static void
give_slot(struct slot *slot)
{
    struct qnet_pusher *pusher = slot->pusher;
    pthread_mutex_lock(&pusher->lock);
    q_list_push_front(&pusher->free, &slot->node);
    pusher->waiting--;
    pthread_mutex_unlock(&pusher->lock);
}

/* At most once: whether it arrived or was lost with the connection, it is over. */
static void
on_taken(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    (void)err;
    qnet_buffer_free(answer);
    give_slot(request->context);
}

enum q_err
qnet_puller_new(const struct qnet_puller_options *options, struct qnet_puller **ret_puller)
{
    Q_ASSERT(options->on_message != NULL);

    struct qnet_puller *puller = calloc(1, sizeof(*puller));
    if (puller == NULL) return Q_FAIL(Q_E_NOMEM, .path = options->url);
    puller->context = options->context;
    puller->on_message = options->on_message;

    struct qnet_server_options server_options = {
        .url = options->url,
        .message_bytes_max = options->message_bytes_max,
        .context = puller,
        .on_call = on_call,
    };
    enum q_err err = qnet_server_new(&server_options, &puller->server);
    if (err != Q_OK) {
        free(puller);
        return err;
    }
    *ret_puller = puller;
    return Q_OK;
}

void
qnet_puller_free(struct qnet_puller *puller)
{
    if (puller == NULL) return;
    qnet_server_free(puller->server);
    free(puller);
}

const char *
qnet_puller_url(const struct qnet_puller *puller)
{
    return qnet_server_url(puller->server);
}

static void
on_call(void *context, struct qnet_call *call)
{
    struct qnet_puller *puller = context;
    puller->on_message(puller->context, qnet_call_take_request(call));

    struct qnet_buffer *nothing;
    if (qnet_buffer_new(0, &nothing) == Q_OK) {
        qnet_call_answer(call, nothing);
    } else {
        /* Takes a place of the pusher's queue until its connection ends. */
        qnet_call_drop(call);
    }
}
