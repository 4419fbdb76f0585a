/*
 * store_thread.c: open, run and close the delay store, all on one thread, as it wants it.
 */
#include "delay/store_thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#include <qbase/assert.h>

#include "common/log.h"

struct delay_store {
    struct delay_store_options options;
    struct qlog_observer observer;
    pthread_t thread;

    /* Written by the store thread before `opened` is posted. */
    sem_t opened;
    enum q_err open_err;
    struct q_fault open_fault;
    struct qlog_delay *store;

    sem_t ended;   /* the loop has ended */
    sem_t closing; /* nobody touches the store any more */
    enum q_err close_err;
    struct q_fault close_fault;
};

static void *store_main(void *argument);
static void destroy(struct delay_store *store);
static void sem_wait_always(sem_t *semaphore);
static void on_event(void *context, const struct qlog_event *event);

enum q_err
delay_store_open(const struct delay_store_options *options, struct delay_store **ret_store)
{
    struct delay_store *store = calloc(1, sizeof(*store));
    if (!store) return Q_FAIL(Q_E_NOMEM);
    store->options = *options;
    store->observer = (struct qlog_observer){ .context = store, .on_event = on_event };
    store->options.store.log.observer = &store->observer;
    Q_ASSERT(sem_init(&store->opened, 0, 0) == 0);
    Q_ASSERT(sem_init(&store->ended, 0, 0) == 0);
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
destroy(struct delay_store *store)
{
    sem_destroy(&store->opened);
    sem_destroy(&store->ended);
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
    struct delay_store *store = argument;
    (void)pthread_setname_np(pthread_self(), "qmq-delay");
    store->open_err =
        qlog_delay_open(store->options.directory, &store->options.store, &store->store);
    store->open_fault = *q_fault_last();
    bool is_open = store->open_err == Q_OK;
    if (is_open) store->options.on_opened(store->options.context, store->store);
    /* From here on the opener may free what it waits with, if it is not open. */
    Q_ASSERT(sem_post(&store->opened) == 0);
    if (!is_open) return NULL;

    enum q_err err = qlog_delay_run(store->store);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        if (fault.err != err) fault = (struct q_fault){ .err = err, .position = Q_POSITION_NONE };
        store->options.on_failed(store->options.context, &fault);
    }
    Q_ASSERT(sem_post(&store->ended) == 0);
    sem_wait_always(&store->closing);
    store->close_err = qlog_delay_close(store->store);
    store->close_fault = *q_fault_last();
    return NULL;
}

void
delay_store_stop(struct delay_store *store)
{
    qlog_delay_stop(store->store);
    sem_wait_always(&store->ended);
}

enum q_err
delay_store_close(struct delay_store *store)
{
    Q_ASSERT(sem_post(&store->closing) == 0);
    Q_ASSERT(pthread_join(store->thread, NULL) == 0);
    enum q_err err = store->close_err;
    if (err != Q_OK) q_fault_adopt(&store->close_fault);
    destroy(store);
    return err;
}

enum q_err
delay_store_submit(struct delay_store *store, struct qlog_delay_request *request)
{
    return qlog_delay_submit(store->store, request);
}

void
delay_store_counters(struct delay_store *store, struct qlog_delay_counters *ret_counters)
{
    qlog_delay_counters(store->store, ret_counters);
}

static void
on_event(void *context, const struct qlog_event *event)
{
    (void)context;
    /* The end of the process tells that, with the fault. */
    if (event->kind == QLOG_EVENT_BROKEN || event->kind == QLOG_EVENT_IO_BACKEND) return;
    bool is_warning = event->kind == QLOG_EVENT_TORN_TAIL || event->kind == QLOG_EVENT_ROT ||
                      event->kind == QLOG_EVENT_BUFFERED ||
                      event->kind == QLOG_EVENT_RETENTION_FAILED;
    srv_log(
        is_warning ? SRV_DELAY_STORE_WARNING : SRV_DELAY_STORE,
        "event=%s log=%s path=%s position=%llu bytes=%llu text=%s", qlog_event_name(event->kind),
        srv_quote(event->log), srv_quote(event->path), (unsigned long long)event->position,
        (unsigned long long)event->bytes, srv_quote(event->text));
}
