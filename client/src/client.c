/*
 * client.c: a client's life, and its thread.
 */
#include "client.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <qbase/assert.h>

#define META_DEFAULT    "tcp://127.0.0.1:20880"
#define PROGRAM_DEFAULT "libqmq " QMQ_VERSION

enum {
    TIMEOUT_MS_DEFAULT = 10 * 1000,
    WATCH_WAIT_MS = 20 * 1000,
    WATCH_TIMEOUT_MS = WATCH_WAIT_MS + 10 * 1000,
    HERE_BYTES = 1,                    /* a page */
    WATCH_PAUSE_NS = 50 * Q_NS_PER_MS, /* so that a flapping route doesn't make us spin */
};

static enum q_err connect_to(
    const struct qmq_client_options *options, struct qmq_client **ret_client);
static enum q_err mark_here(struct qmq_client *client);
static void *run(void *context);
static uint64_t tick_members(struct qmq_client *client, uint64_t due_ns);
static void close_retired(struct qmq_client *client);
static uint64_t watch_tick(struct qmq_client *client);
static enum q_err watch_submit(struct qmq_client *client);
static void on_watched(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);
static enum q_err watch_take(struct qmq_client *client, struct qnet_buffer *buffer);

int
qmq_connect(const struct qmq_client_options *options, struct qmq_client **ret_client)
{
    static const struct qmq_client_options defaults;
    return connect_to(options ? options : &defaults, ret_client);
}

static enum q_err
connect_to(const struct qmq_client_options *options, struct qmq_client **ret_client)
{
    struct qmq_client *client = calloc(1, sizeof(*client));
    if (!client) return Q_FAIL(Q_E_NOMEM);
    client->meta_url = strdup(options->meta ? options->meta : META_DEFAULT);
    client->program = strdup(options->program ? options->program : PROGRAM_DEFAULT);
    client->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS_DEFAULT;
    client->clock = q_clock_system();
    client->hooks.log = options->log;
    client->hooks.context = options->log_context;
    pthread_mutex_init(&client->lock, NULL);
    condition_init(&client->wake);
    condition_init(&client->ticked);
    q_list_init(&client->brokers);
    q_list_init(&client->members);

    enum q_err err = client->meta_url && client->program ? Q_OK : Q_FAIL(Q_E_NOMEM);
    if (err == Q_OK) err = mark_here(client);
    if (err == Q_OK)
        err = link_open(client->meta_url, client->program, &client->hooks, &client->meta);
    if (err == Q_OK) err = link_hello_wait(client->meta, client->timeout_ms);
    if (err == Q_OK && pthread_create(&client->thread, NULL, run, client) != 0)
        err = Q_FAIL(Q_E_NOMEM, .what = "no more threads");
    if (err != Q_OK) {
        client->is_stopping = true;
        qmq_client_free(client);
        return err;
    }
    *ret_client = client;
    return Q_OK;
}

/* The kernel wipes such a page in a child: to see that costs one load, where getpid() is a system call. */
static enum q_err
mark_here(struct qmq_client *client)
{
    uint8_t *page =
        mmap(NULL, HERE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return Q_FAIL(Q_E_NOMEM);
    *page = 1;
    client->here = page;
    /* Before Linux 4.14 there is none, and then a fork is not noticed. */
    (void)madvise(page, HERE_BYTES, MADV_WIPEONFORK);
    return Q_OK;
}

bool
client_is_here(const struct qmq_client *client)
{
    return *(const volatile uint8_t *)client->here == 1;
}

enum q_err
client_check(const struct qmq_client *client)
{
    if (client_is_here(client)) return Q_OK;
    return Q_FAIL(
        Q_INVALID, .what = "the client was connected by the process that has forked this one",
        .hint = "connect after fork(), and not before");
}

void
qmq_client_free(struct qmq_client *client)
{
    if (!client || (client->here && !client_is_here(client))) return;
    Q_ASSERT(q_list_is_empty(&client->members));

    pthread_mutex_lock(&client->lock);
    bool has_thread = !client->is_stopping;
    client->is_stopping = true;
    pthread_cond_signal(&client->wake);
    pthread_mutex_unlock(&client->lock);
    if (has_thread) pthread_join(client->thread, NULL);

    link_close(client->meta);
    qnet_buffer_free(client->watch.answer);
    close_retired(client);
    brokers_free(client);
    pthread_cond_destroy(&client->ticked);
    pthread_cond_destroy(&client->wake);
    pthread_mutex_destroy(&client->lock);
    if (client->here) (void)munmap((void *)client->here, HERE_BYTES);
    free(client->program);
    free(client->meta_url);
    free(client);
}

static void *
run(void *context)
{
    struct qmq_client *client = context;

    pthread_mutex_lock(&client->lock);
    while (!client->is_stopping) {
        client->is_woken = false;
        pthread_mutex_unlock(&client->lock);

        uint64_t due_ns = tick_members(client, watch_tick(client));
        close_retired(client);

        pthread_mutex_lock(&client->lock);
        bool is_due = false;
        while (!client->is_woken && !client->is_stopping && !is_due)
            is_due = !condition_wait(&client->wake, &client->lock, due_ns);
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

/*
 * A member is ticked without the lock; client_part() waits for the one that is. So the one that was
 * just ticked is still in the list, and its `next` is good.
 */
static uint64_t
tick_members(struct qmq_client *client, uint64_t due_ns)
{
    pthread_mutex_lock(&client->lock);
    q_list_for_each(node, &client->members) {
        client->ticking = q_container_of(node, struct member, node);
        pthread_mutex_unlock(&client->lock);

        due_ns = q_min_u64(due_ns, client->ticking->tick(client->ticking, client_now_ns(client)));

        pthread_mutex_lock(&client->lock);
        client->ticking = NULL;
        pthread_cond_broadcast(&client->ticked);
    }
    pthread_mutex_unlock(&client->lock);
    return due_ns;
}

void
client_join(struct qmq_client *client, struct member *member)
{
    pthread_mutex_lock(&client->lock);
    q_list_push_back(&client->members, &member->node);
    pthread_mutex_unlock(&client->lock);
    client_wake(client);
}

void
client_part(struct qmq_client *client, struct member *member)
{
    pthread_mutex_lock(&client->lock);
    while (client->ticking == member)
        pthread_cond_wait(&client->ticked, &client->lock);
    q_list_remove(&member->node);
    pthread_mutex_unlock(&client->lock);
}

void
client_wake(struct qmq_client *client)
{
    pthread_mutex_lock(&client->lock);
    if (!client->is_woken) pthread_cond_signal(&client->wake);
    client->is_woken = true;
    pthread_mutex_unlock(&client->lock);
}

uint64_t
client_route_changes(struct qmq_client *client)
{
    pthread_mutex_lock(&client->lock);
    uint64_t changes = client->route_changes;
    pthread_mutex_unlock(&client->lock);
    return changes;
}

uint64_t
client_now_ns(const struct qmq_client *client)
{
    return q_clock_monotonic_ns(client->clock);
}

static void
close_retired(struct qmq_client *client)
{
    pthread_mutex_lock(&client->lock);
    struct link **links = client->retired;
    size_t count = client->retired_count;
    client->retired = NULL;
    client->retired_count = 0;
    pthread_mutex_unlock(&client->lock);

    for (size_t index = 0; index < count; index++)
        link_close(links[index]);
    free(links);
}

/* One long poll at meta tells of every broker group that comes, goes or moves. */
static uint64_t
watch_tick(struct qmq_client *client)
{
    uint64_t now_ns = client_now_ns(client);

    pthread_mutex_lock(&client->lock);
    bool is_under_way = client->watch.is_under_way;
    struct qnet_buffer *answer = client->watch.answer;
    client->watch.answer = NULL;
    pthread_mutex_unlock(&client->lock);
    if (is_under_way) return UINT64_MAX;

    if (answer && watch_take(client, answer) == Q_OK) {
        if (client->watch.backoff_ms != 0)
            hooks_log(&client->hooks, QMQ_LOG_INFO, "meta %s answers again", client->meta_url);
        client->watch.backoff_ms = 0;
        client->watch.next_ns = now_ns + WATCH_PAUSE_NS;
    }
    if (client->watch.has_failed) {
        client->watch.has_failed = false;
        if (client->watch.backoff_ms == 0)
            hooks_log(
                &client->hooks, QMQ_LOG_WARNING,
                "meta %s does not answer: its last routes are kept", client->meta_url);
        client->watch.next_ns = now_ns + backoff_next(&client->watch.backoff_ms);
    }
    if (now_ns < client->watch.next_ns) return client->watch.next_ns;

    if (watch_submit(client) == Q_OK) return UINT64_MAX;
    client->watch.next_ns = now_ns + backoff_next(&client->watch.backoff_ms);
    return client->watch.next_ns;
}

static enum q_err
watch_submit(struct qmq_client *client)
{
    Qmq__Wire__RouteRequest route = QMQ__WIRE__ROUTE_REQUEST__INIT;
    route.known_version = client->watch.known_version;
    route.wait_ms = WATCH_WAIT_MS;

    struct call *call = &client->watch.call;
    call->net = (struct qnet_request){ .timeout_ms = WATCH_TIMEOUT_MS, .done = on_watched };
    Q_TRY(call_build(QPROTO_META_ROUTE, &route.base, 0, &call->net.buffer, NULL));

    client->watch.is_under_way = true;
    enum q_err err = link_submit(client->meta, call);
    if (err != Q_OK) client->watch.is_under_way = false;
    return err;
}

static void
on_watched(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct call *call = q_container_of(request, struct call, net);
    struct qmq_client *client = q_container_of(call, struct qmq_client, watch.call);

    pthread_mutex_lock(&client->lock);
    client->watch.is_under_way = false;
    client->watch.has_failed = err != Q_OK;
    client->watch.answer = err == Q_OK ? answer : NULL;
    pthread_mutex_unlock(&client->lock);
    client_wake(client);
}

static enum q_err
watch_take(struct qmq_client *client, struct qnet_buffer *buffer)
{
    struct answer answer;
    enum q_err err = answer_open(&answer, buffer, QPROTO_META_ROUTE);
    if (err != Q_OK) {
        client->watch.has_failed = true;
        return err;
    }

    const Qmq__Wire__RouteAnswer *route = (const Qmq__Wire__RouteAnswer *)answer.header;
    client->watch.known_version = route->version;
    brokers_update(client, route);
    answer_close(&answer);
    return Q_OK;
}
