/*
 * bench.h: what the benches share: numbered bodies, measuring, printing.
 */
#ifndef QMQ_TOOL_BENCH_H
#define QMQ_TOOL_BENCH_H

#include <qbase/hist.h>

#include "command.h"

enum {
    BENCH_BODY_MIN = 24,
    BENCH_SUBJECTS_MAX = 1000
};

/* Begins every body. Counts per run and subject, so that what comes can be checked. */
struct bench_body {
    uint64_t run;
    uint64_t subject;
    uint64_t counter;
};

struct bench_result {
    const char *name;
    uint64_t messages;
    uint64_t bytes; /* of bodies */
    uint64_t took_ns;
    uint64_t cpu_ns;       /* of this process */
    uint64_t server_ns;    /* of all brokers' processes */
    struct q_hist latency; /* ns */
};

/* Fields of one bench only. */
struct bench_field {
    const char *name;
    uint64_t value;
};

const char *bench_subject(char *out, size_t out_size, uint64_t subject, uint64_t subjects);
uint64_t bench_cpu_ns(void);
/* Of the processes of all brokers, since they began. 0: they don't say. */
uint64_t bench_server_ns(struct qmq_client *client);
/* "sync" or "async". False after a usage error was printed. */
bool bench_mode(const struct command *command, const char *ack, enum qmq_mode *ret_mode);
/* True when `format` is json. False after a usage error was printed. */
bool bench_format(const struct command *command, const char *format, bool *ret_is_json);
/* On stdout: one JSON object, or lines for people. */
void bench_print(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    bool is_json);

#endif /* QMQ_TOOL_BENCH_H */
