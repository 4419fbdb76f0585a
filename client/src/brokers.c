/*
 * brokers.c: who the brokers are.
 */
#include "client.h"

struct brokers_tell {
    qmq_broker_fn *each;
    void *context;
};

static broker_ask_fn ask_who;

int
qmq_brokers(struct qmq_client *client, qmq_broker_fn *each, void *context)
{
    struct brokers_tell tell = { .each = each, .context = context };
    return brokers_ask(client, NULL, ask_who, &tell);
}

static enum q_err
ask_who(struct broker *broker, void *context)
{
    const struct brokers_tell *tell = context;
    Qmq__Wire__HelloRequest request = QMQ__WIRE__HELLO_REQUEST__INIT;
    request.protocol_max = QPROTO_VERSION;

    struct answer answer;
    Q_TRY(broker_call(broker, QPROTO_HELLO, &request.base, broker->client->timeout_ms, &answer));
    const Qmq__Wire__HelloAnswer *header = (const Qmq__Wire__HelloAnswer *)answer.header;
    const struct qmq_broker_info info = {
        .broker_group = broker->group,
        .program = header->program,
        .node_id = header->node_id,
        .roles = header->roles,
        .cpu_us = header->cpu_us,
        .one_way_came = header->one_way_came,
        .one_way_stored = header->one_way_stored,
        .one_way_busy = header->one_way_busy,
        .one_way_full = header->one_way_full,
        .one_way_refused = header->one_way_refused,
        .one_way_invalid = header->one_way_invalid,
    };
    tell->each(tell->context, &info);
    answer_close(&answer);
    return Q_OK;
}
