/*
 * test_net_pipeline.c: one-way messages.
 */
#include "test_net_common.h"

#include <qnet/pipeline.h>

struct sink {
    struct qnet_puller *puller;
    atomic_uint came;
    atomic_uint disordered;
    atomic_uint at_once; /* on_message runs now */
    atomic_uint overlapping;
    uint64_t next_number;
};

static void
on_message(void *context, struct qnet_buffer *buffer)
{
    struct sink *sink = context;
    if (atomic_fetch_add(&sink->at_once, 1) != 0) atomic_fetch_add(&sink->overlapping, 1);
    uint64_t number = q_load_le64(qnet_buffer_data(buffer));
    if (number != sink->next_number) atomic_fetch_add(&sink->disordered, 1);
    sink->next_number = number + 1;
    qnet_buffer_free(buffer);
    atomic_fetch_sub(&sink->at_once, 1);
    atomic_fetch_add(&sink->came, 1);
}

static void
sink_start(struct sink *sink, const char *url, size_t message_bytes_max)
{
    memset(sink, 0, sizeof(*sink));
    struct qnet_puller_options options = {
        .url = url,
        .message_bytes_max = message_bytes_max,
        .context = sink,
        .on_message = on_message,
    };
    cr_assert_eq(qnet_puller_new(&options, &sink->puller), Q_OK, "%s", q_fault_last()->what);
}

static struct qnet_pusher *
pusher_start(const char *url, unsigned queue_max)
{
    struct qnet_pusher *pusher;
    struct qnet_pusher_options options = { .url = url, .queue_max = queue_max };
    cr_assert_eq(qnet_pusher_new(&options, &pusher), Q_OK, "%s", q_fault_last()->what);
    return pusher;
}

/* Wait while the queue is full, as a publisher would. */
static void
push(struct qnet_pusher *pusher, uint64_t number, size_t size)
{
    struct qnet_buffer *buffer;
    cr_assert_eq(qnet_buffer_new(size, &buffer), Q_OK);
    q_store_le64(qnet_buffer_data(buffer), number);
    enum q_err err;
    while ((err = qnet_pusher_push(pusher, buffer)) == Q_BUSY) {
        usleep(100);
    }
    cr_assert_eq(err, Q_OK);
}

/* Messages arrive in their order, one at a time, on every transport. */
Test(net_pipeline, order)
{
    enum {
        MESSAGES = 10000
    };
    const char *urls[] = { "tcp://127.0.0.1:0", net_ipc_url("pipe"), "inproc://pipe" };
    for (unsigned i = 0; i < 3; i++) {
        struct sink sink;
        sink_start(&sink, urls[i], 0);
        struct qnet_pusher *pusher = pusher_start(qnet_puller_url(sink.puller), 64);
        for (unsigned j = 0; j < MESSAGES; j++) {
            push(pusher, j, 8 + j % 1000);
        }
        WAIT_FOR(sink.came == MESSAGES);
        cr_assert_eq(sink.disordered, 0);
        cr_assert_eq(sink.overlapping, 0);
        qnet_pusher_free(pusher, 0);
        qnet_puller_free(sink.puller);
    }
}

/* With nobody to pull, exactly queue_max messages are taken; they leave when somebody comes. */
Test(net_pipeline, busy)
{
    enum {
        QUEUE = 8
    };
    const char *url = net_ipc_url("queue");
    struct qnet_pusher *pusher = pusher_start(url, QUEUE);
    for (unsigned i = 0; i < QUEUE; i++) {
        cr_assert_eq(qnet_pusher_push(pusher, net_number(i)), Q_OK);
    }
    struct qnet_buffer *rest = net_number(QUEUE);
    cr_assert_eq(qnet_pusher_push(pusher, rest), Q_BUSY);

    struct sink sink;
    sink_start(&sink, url, 0);
    WAIT_FOR(sink.came == QUEUE);
    enum q_err err = Q_BUSY;
    WAIT_FOR((err = err == Q_OK ? Q_OK : qnet_pusher_push(pusher, rest)) == Q_OK);
    WAIT_FOR(sink.came == QUEUE + 1);
    cr_assert_eq(sink.disordered, 0);
    qnet_pusher_free(pusher, 0);
    qnet_puller_free(sink.puller);
}

/* A pusher that is freed with time to linger loses nothing, of large messages either. */
Test(net_pipeline, linger)
{
    enum {
        MESSAGES = 100,
        BYTES = 200 * 1000
    };
    struct sink sink;
    sink_start(&sink, "tcp://127.0.0.1:0", 0);
    struct qnet_pusher *pusher = pusher_start(qnet_puller_url(sink.puller), MESSAGES);
    for (unsigned i = 0; i < MESSAGES; i++) {
        push(pusher, i, BYTES);
    }
    qnet_pusher_free(pusher, NET_PATIENCE_MS);
    WAIT_FOR(sink.came == MESSAGES);
    cr_assert_eq(sink.disordered, 0);
    qnet_puller_free(sink.puller);
}

/* Without a puller it lingers no longer than told, and not at all when nothing was pushed. */
Test(net_pipeline, linger_in_vain)
{
    struct qnet_pusher *pusher = pusher_start(net_ipc_url("nobody"), 8);
    uint64_t begun_ms = net_now_ms();
    qnet_pusher_free(pusher, NET_PATIENCE_MS);
    cr_assert_lt(net_now_ms() - begun_ms, NET_PATIENCE_MS / 2);

    pusher = pusher_start(net_ipc_url("nobody"), 8);
    cr_assert_eq(qnet_pusher_push(pusher, net_number(0)), Q_OK);
    begun_ms = net_now_ms();
    qnet_pusher_free(pusher, 100);
    uint64_t took_ms = net_now_ms() - begun_ms;
    cr_assert(took_ms >= 95 && took_ms < 2000, "%d ms", (int)took_ms);
}

/* A message beyond the limit ends its connection, which is made again; others pass. */
Test(net_pipeline, too_long_message)
{
    struct sink sink;
    sink_start(&sink, "tcp://127.0.0.1:0", 1000);
    struct qnet_pusher *pusher = pusher_start(qnet_puller_url(sink.puller), 8);
    push(pusher, 0, 1000);
    WAIT_FOR(sink.came == 1);
    push(pusher, 7, 1001);
    usleep(100 * 1000);
    for (unsigned i = 0; i < 100 && sink.came < 2; i++) {
        push(pusher, 1, 8);
        usleep(20 * 1000);
    }
    WAIT_FOR(sink.came >= 2);
    cr_assert_eq(sink.next_number, 2);
    qnet_pusher_free(pusher, 0);
    qnet_puller_free(sink.puller);
}

/* Urls are checked as everywhere. */
Test(net_pipeline, bad_urls)
{
    struct qnet_pusher *pusher;
    struct qnet_puller *puller;
    cr_assert_eq(
        qnet_pusher_new(&(struct qnet_pusher_options){ .url = "tcp://127.0.0.1" }, &pusher),
        Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "no port in the url");
    cr_assert_eq(
        qnet_puller_new(
            &(struct qnet_puller_options){ .url = "pipe", .on_message = on_message }, &puller),
        Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "not a url");
}
