/*
 * store_thread.c: open, run and close the store, all on one thread, as it wants it.
 *
 * The loop itself is qlog_store_run(). What the store reports becomes log lines here.
 */
#include "broker/store_thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#include <qbase/assert.h>

#include "common/log.h"

enum {
    IO_TEXT_MAX = 200
};

struct broker_store {
    struct broker_store_options options;
    struct qlog_observer observer;
    pthread_t thread;

    /* Written by the store thread before `opened` is posted. */
    sem_t opened;
    enum q_err open_err;
    struct q_fault open_fault;
    struct qlog_store *store;
    char io_text[IO_TEXT_MAX];

    /* Posted when nobody touches the store any more; written before the thread ends. */
    sem_t closing;
    enum q_err close_err;
    struct q_fault close_fault;
};

static void *store_main(void *argument);
static void destroy(struct broker_store *store);
static void sem_wait_always(sem_t *semaphore);
static void tell_memory(struct qlog_store *store);
static void on_event(void *context, const struct qlog_event *event);

enum q_err
broker_store_open(const struct broker_store_options *options, struct broker_store **ret_store)
{
    struct broker_store *store = calloc(1, sizeof(*store));
    if (!store) return Q_FAIL(Q_E_NOMEM);
    store->options = *options;
    store->observer = (struct qlog_observer){ .context = store, .on_event = on_event };
    store->options.store.log.observer = &store->observer;
    Q_ASSERT(sem_init(&store->opened, 0, 0) == 0);
    Q_ASSERT(sem_init(&store->closing, 0, 0) == 0);

    int error = pthread_create(&store->thread, NULL, store_main, store);
    if (error) {
        destroy(store);
        return Q_FAIL(q_err_from_errno(error), .sys = error, .what = "a thread can't be started");
    }
    sem_wait_always(&store->opened);
    if (store->open_err == Q_OK) {
        *ret_store = store;
        return Q_OK;
    }

    enum q_err err = store->open_err;
    q_fault_adopt(&store->open_fault);
    Q_ASSERT(pthread_join(store->thread, NULL) == 0);
    destroy(store);
    return err;
}

static void
destroy(struct broker_store *store)
{
    sem_destroy(&store->opened);
    sem_destroy(&store->closing);
    free(store);
}

/* Whatever signals come. */
static void
sem_wait_always(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        Q_ASSERT(errno == EINTR);
}

static void *
store_main(void *argument)
{
    struct broker_store *store = argument;
    (void)pthread_setname_np(pthread_self(), "qmq-store");

    store->open_err =
        qlog_store_open(store->options.directory, &store->options.store, &store->store);
    store->open_fault = *q_fault_last();
    bool is_open = store->open_err == Q_OK;
    /* From here on the opener may free what it waits with, if it is not open. */
    Q_ASSERT(sem_post(&store->opened) == 0);
    if (!is_open) return NULL;

    tell_memory(store->store);
    enum q_err err = qlog_store_run(store->store);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        if (fault.err != err) fault = (struct q_fault){ .err = err, .position = Q_POSITION_NONE };
        store->options.on_failed(store->options.context, &fault);
    } else {
        tell_memory(store->store);
    }
    sem_wait_always(&store->closing);
    store->close_err = qlog_store_close(store->store);
    store->close_fault = *q_fault_last();
    return NULL;
}

static void
tell_memory(struct qlog_store *store)
{
    struct qlog_memory memory;
    char text[QLOG_MEMORY_TEXT_MAX];
    qlog_store_memory(store, &memory);
    srv_log(
        SRV_BROKER_MEMORY, "planned=%llu used=%llu max=%llu plan=%s",
        (unsigned long long)memory.planned, (unsigned long long)memory.used,
        (unsigned long long)memory.max, srv_quote(qlog_memory_text(&memory, text)));
}

enum q_err
broker_store_close(struct broker_store *store)
{
    qlog_store_stop(store->store);
    Q_ASSERT(sem_post(&store->closing) == 0);
    Q_ASSERT(pthread_join(store->thread, NULL) == 0);

    enum q_err err = store->close_err;
    if (err != Q_OK) q_fault_adopt(&store->close_fault);
    destroy(store);
    return err;
}

enum q_err
broker_store_submit(struct broker_store *store, struct qlog_request *request)
{
    return qlog_store_submit(store->store, request);
}

const char *
broker_store_io_text(const struct broker_store *store)
{
    return store->io_text;
}

/* Which events an operator should see even where lines of level INFO are not written. */
static bool
is_warning(enum qlog_event_kind kind)
{
    switch (kind) {
    case QLOG_EVENT_TORN_TAIL:
    case QLOG_EVENT_ROT:
    case QLOG_EVENT_VOID_ACTIONS:
    case QLOG_EVENT_BUFFERED:
    case QLOG_EVENT_RETENTION_FAILED:
    case QLOG_EVENT_EXPIRED:
    case QLOG_EVENT_DISK_LEVEL:
    case QLOG_EVENT_ARCHIVE_FAILED:
    case QLOG_EVENT_READ_FAILED:
    case QLOG_EVENT_INDEX_DROPPED:
    case QLOG_EVENT_INDEX_FAILED:
        return true;
    default:
        return false;
    }
}

static void
on_event(void *context, const struct qlog_event *event)
{
    struct broker_store *store = context;
    /* The end of the process tells that, with the fault. */
    if (event->kind == QLOG_EVENT_BROKEN) return;
    if (event->kind == QLOG_EVENT_IO_BACKEND)
        (void)snprintf(store->io_text, sizeof(store->io_text), "%s", event->text);

    srv_log(
        is_warning(event->kind) ? SRV_BROKER_STORE_WARNING : SRV_BROKER_STORE,
        "event=%s log=%s path=%s position=%llu bytes=%llu text=%s", qlog_event_name(event->kind),
        srv_quote(event->log), srv_quote(event->path), (unsigned long long)event->position,
        (unsigned long long)event->bytes, srv_quote(event->text));
}
