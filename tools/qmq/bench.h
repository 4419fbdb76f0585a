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
/* "sync", "async" or "none", which is one way: set in `options`. False after a usage error was printed. */
bool bench_ack(
    const struct command *command, const char *ack, struct qmq_producer_options *options);
/* True when `format` is json. False after a usage error was printed. */
bool bench_format(const struct command *command, const char *format, bool *ret_is_json);

/* How to print, and what to compare with. */
struct bench_output {
    bool is_json;
    const char *old_path; /* NULL: nothing */
    char *old;
};

/* `compare`: what an earlier run of the same bench printed as JSON; may be NULL. False after a usage error was
 * printed. To be closed. */
bool bench_open_output(
    const struct command *command,
    const char *format,
    const char *bench,
    const char *compare,
    struct bench_output *ret_output);
void bench_close_output(struct bench_output *output);
/* False: there is nothing to compare with, or it does not tell. */
bool bench_old_figure(const struct bench_output *output, const char *name, double *ret_value);

/* On stdout: one JSON object, or lines for people. With something to compare: of each figure what it is of
 * the old one, 1 being the same. */
void bench_print(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    const struct bench_output *output);

#define BENCH_OUTPUT_OPTIONS(format, compare)                                                      \
    { "compare", 0, Q_OPT_TEXT, &(compare), "FILE", "what -o json printed earlier", 0, 0 },        \
    {                                                                                              \
        "output", 'o', Q_OPT_TEXT, &(format), "FORMAT", "text or json", 0, 0                       \
    }

#endif /* QMQ_TOOL_BENCH_H */
