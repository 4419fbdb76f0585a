/*
 * foreign.c: producers and consumers in somebody else's event loop: a file descriptor that becomes readable
 * when there is something to do, and calls that do it on the thread of the loop.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "consumer.h"
#include "producer.h"

enum {
    PARK_MS = 20 * 1000, /* of a pull, at the broker */
};

static struct qmq_batch *take_batch(struct qmq_consumer *consumer);
static enum q_err find_failure(struct qmq_consumer *consumer);

enum q_err
event_open(int *ret_fd)
{
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return Q_FAIL(q_err_from_errno(errno), .sys = errno, .what = "no file descriptor is left");
    *ret_fd = fd;
    return Q_OK;
}

void
event_raise(int fd)
{
    /* Full means readable, which is all that it is for. */
    ssize_t written = fd < 0 ? 0 : write(fd, &(uint64_t){ 1 }, sizeof(uint64_t));
    (void)written;
}

void
event_clear(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof(count));
    (void)got;
}

int
qmq_producer_fd(const struct qmq_producer *producer)
{
    return producer->event_fd;
}

int
qmq_producer_dispatch(struct qmq_producer *producer)
{
    Q_TRY(client_check(producer->client));
    if (producer->event_fd < 0)
        return Q_FAIL(
            Q_INVALID, .what = "the producer runs its callbacks by itself",
            .hint = "set `foreign_loop` in its options");
    pthread_mutex_lock(&producer->lock);
    event_clear(producer->event_fd);
    batches_deliver_here(producer);
    pthread_mutex_unlock(&producer->lock);
    return Q_OK;
}

int
qmq_consumer_fd(struct qmq_consumer *consumer, int *ret_fd)
{
    enum q_err err = client_check(consumer->client);
    if (err != Q_OK) return err;

    pthread_mutex_lock(&consumer->lock);
    if (consumer->event_fd < 0) err = event_open(&consumer->event_fd);
    *ret_fd = consumer->event_fd;
    consumer->wants = true;
    event_raise(consumer->event_fd);
    pthread_mutex_unlock(&consumer->lock);
    client_wake(consumer->client);
    return err;
}

int
qmq_pull_now(struct qmq_consumer *consumer, uint32_t messages_max, struct qmq_batch **ret_batch)
{
    enum q_err err = client_check(consumer->client);
    if (err != Q_OK) return err;

    pthread_mutex_lock(&consumer->lock);
    consumer_set_pull(consumer, messages_max);
    if (consumer->event_fd >= 0) event_clear(consumer->event_fd);
    if (consumer->is_stopping)
        err = consumer_stopped();
    else if ((*ret_batch = take_batch(consumer)))
        event_raise(consumer->event_fd);
    else
        err = find_failure(consumer);
    consumer->wants |= err == Q_AGAIN;
    pthread_mutex_unlock(&consumer->lock);
    if (err == Q_AGAIN) client_wake(consumer->client);
    return err;
}

static struct qmq_batch *
take_batch(struct qmq_consumer *consumer)
{
    consumer_look_for_sources(consumer);
    return consumer_take_fetched(consumer);
}

/* AGAIN, unless nothing will ever come. */
static enum q_err
find_failure(struct qmq_consumer *consumer)
{
    q_list_for_each(node, &consumer->sources) {
        const struct source *source = q_container_of(node, struct source, node);
        if (source->state != SOURCE_REFUSED) continue;
        q_fault_adopt(&source->fault);
        return source->err;
    }
    return Q_FAIL(Q_AGAIN);
}

uint64_t
consumer_ask_ahead(struct qmq_consumer *consumer, uint64_t now_ns)
{
    uint64_t due_ns = UINT64_MAX;

    if (consumer->event_fd < 0 || !consumer->wants) return due_ns;
    q_list_for_each(node, &consumer->sources) {
        struct source *source = q_container_of(node, struct source, node);
        if (source->state != SOURCE_READY || source->fetched) continue;
        if (now_ns >= source->next_ns) source_pull(source, PARK_MS * (uint64_t)Q_NS_PER_MS);
        if (source->state == SOURCE_READY) due_ns = q_min_u64(due_ns, source->next_ns);
    }
    return due_ns;
}
