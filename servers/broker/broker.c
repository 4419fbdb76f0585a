/*
 * broker.c: put the broker together, take it apart.
 *
 *   start: answer thread, store thread (recovers), listener, registrar
 *   stop:  gate closed (new calls: STOPPING), registrar, waiting pulls ended, calls under way
 *          answered, store closed, answer thread, listener
 */
#include "broker/broker.h"

#include <stdlib.h>
#include <time.h>

#include <qbase/clock.h>

#include "broker/archive.h"
#include "broker/request.h"
#include "broker/store_thread.h"
#include "broker/waiting.h"
#include "common/url.h"

enum {
    STOP_PATIENCE_MS = 5000
};

static enum q_err start_answerer(struct broker *broker);
static enum q_err start_store(struct broker *broker);
static enum q_err start_listener(struct broker *broker);
static enum q_err start_one_way(struct broker *broker);
static enum q_err start_registrar(struct broker *broker);
static void on_registered(void *context);
static void on_store_failed(void *context, const struct q_fault *fault);
static void wait_for_calls(struct broker *broker);

static const struct srv_op one_way_ops[] = {
    { QPROTO_PUBLISH_ONE_WAY, broker_on_one_way, NULL },
};

static const struct srv_op ops[] = {
    { QPROTO_PUBLISH, broker_on_call, &broker_publish_route },
    { QPROTO_PULL, broker_on_call, &broker_pull_route },
    { QPROTO_ACK, broker_on_call, &broker_ack_route },
    { QPROTO_JOIN, broker_on_call, &broker_join_route },
    { QPROTO_KEEP_ALIVE, broker_on_call, &broker_keep_alive_route },
    { QPROTO_LEAVE, broker_on_call, &broker_leave_route },
    { QPROTO_NACK, broker_on_call, &broker_nack_route },
    { QPROTO_GROUP_CONTROL, broker_on_call, &broker_control_route },
    { QPROTO_GROUP_LIST, broker_on_call, &broker_groups_route },
    { QPROTO_GROUP_LAG, broker_on_call, &broker_lag_route },
    { QPROTO_PEEK, broker_on_call, &broker_peek_route },
};

enum q_err
broker_start(const struct broker_options *options, struct broker **ret_broker)
{
    struct broker *broker = calloc(1, sizeof(*broker));
    if (!broker) return Q_FAIL(Q_E_NOMEM);
    broker->options = *options;
    if (options->one_way_bytes_max == 0)
        broker->options.one_way_bytes_max = BROKER_ONE_WAY_BYTES_DEFAULT;
    broker_pool_init(broker);
    broker_waiting_init(broker);

    enum q_err err = start_answerer(broker);
    if (err == Q_OK) err = start_store(broker);
    if (err == Q_OK) err = start_listener(broker);
    if (err == Q_OK) err = start_one_way(broker);
    if (err == Q_OK) err = start_registrar(broker);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        enum q_err stop_err = broker_stop(broker);
        (void)stop_err; /* the first failure is the one to tell */
        q_fault_adopt(&fault);
        return err;
    }
    *ret_broker = broker;
    return Q_OK;
}

static enum q_err
start_answerer(struct broker *broker)
{
    const struct srv_worker_options options = {
        .name = "qmq-answer",
        /* Each request there can be, and its cancel. */
        .jobs_max = 2 * BROKER_REQUESTS_MAX,
    };
    return srv_worker_start(&options, &broker->answerer);
}

static enum q_err
start_store(struct broker *broker)
{
    if (broker->options.archive)
        Q_TRY(broker_archive_new(broker->options.archive, &broker->archive));
    broker->options.store.archive = broker_archive_taker(broker->archive);
    const struct broker_store_options options = {
        .directory = broker->options.directory,
        .store = broker->options.store,
        .context = broker,
        .on_failed = on_store_failed,
    };
    return broker_store_open(&options, &broker->store);
}

static enum q_err
start_listener(struct broker *broker)
{
    const struct srv_listener_options options = {
        .url = broker->options.url,
        .role = "broker",
        .roles = broker->options.roles,
        .program = broker->options.program,
        .node_id = broker->options.node_id,
        .ops = ops,
        .op_count = sizeof(ops) / sizeof(ops[0]),
        .context = broker,
        .on_hello = broker_on_hello,
        .on_gone = broker_on_gone,
    };
    return srv_listener_new(&options, &broker->listener);
}

/* Sockets of its own: what nobody waits for does not stand in the way of what somebody waits for. */
static enum q_err
start_one_way(struct broker *broker)
{
    if (!broker->options.one_way_url) return Q_OK;
    const struct srv_listener_options options = {
        .url = broker->options.one_way_url,
        .role = "one-way",
        .roles = broker->options.roles,
        .program = broker->options.program,
        .node_id = broker->options.node_id,
        .ops = one_way_ops,
        .op_count = sizeof(one_way_ops) / sizeof(one_way_ops[0]),
        .context = broker,
        .on_hello = broker_on_hello,
    };
    return srv_listener_new(&options, &broker->one_way_listener);
}

static enum q_err
start_registrar(struct broker *broker)
{
    if (!broker->options.meta_url) return Q_OK;
    srv_url_dial(
        broker_url(broker), broker->options.advertise, broker->address, sizeof(broker->address));
    if (broker->one_way_listener)
        srv_url_dial(
            broker_one_way_url(broker), broker->options.advertise, broker->one_way_address,
            sizeof(broker->one_way_address));
    const struct srv_registrar_options options = {
        .meta_url = broker->options.meta_url,
        .node_id = broker->options.node_id,
        .cluster = broker->options.cluster,
        .broker_group = broker->options.broker_group,
        .role = "broker",
        .address = broker->address,
        .one_way = broker->one_way_listener ? broker->one_way_address : NULL,
        .version = broker->options.version,
        .context = broker,
        .on_registered = on_registered,
    };
    return srv_registrar_new(&options, &broker->registrar);
}

static void
on_registered(void *context)
{
    struct broker *broker = context;
    if (broker->options.on_ready) broker->options.on_ready(broker->options.context);
}

static void
on_store_failed(void *context, const struct q_fault *fault)
{
    struct broker *broker = context;
    atomic_store(&broker->has_failed, true);
    if (broker->options.on_failed) broker->options.on_failed(broker->options.context, fault);
}

enum q_err
broker_stop(struct broker *broker)
{
    enum q_err err = Q_OK;
    struct q_fault fault = { .err = Q_OK };

    srv_gate_close(&broker->gate);
    srv_registrar_free(broker->registrar);
    if (broker->store) {
        broker_waiting_end_all(broker);
        wait_for_calls(broker);
        srv_gate_close(&broker->store_gate);
        err = broker_store_close(broker->store);
        fault = *q_fault_last();
    }
    broker_archive_free(broker->archive);
    srv_worker_stop(broker->answerer);
    srv_listener_free(broker->one_way_listener);
    srv_listener_free(broker->listener);
    broker_waiting_fini(broker);
    broker_pool_fini(broker);
    free(broker);
    if (err != Q_OK) q_fault_adopt(&fault);
    return err;
}

/* What is under way gets its true answer, unless the store can't give any. */
static void
wait_for_calls(struct broker *broker)
{
    for (int ms = 0; ms < STOP_PATIENCE_MS; ms++) {
        if (atomic_load(&broker->has_failed) || broker_pool_used(broker) == 0) return;
        const struct timespec moment = { .tv_nsec = Q_NS_PER_MS };
        (void)nanosleep(&moment, NULL);
    }
}

const char *
broker_url(const struct broker *broker)
{
    return srv_listener_url(broker->listener);
}

const char *
broker_one_way_url(const struct broker *broker)
{
    return broker->one_way_listener ? srv_listener_url(broker->one_way_listener) : NULL;
}

const char *
broker_io_text(const struct broker *broker)
{
    return broker_store_io_text(broker->store);
}
