/*
 * hooks.c: see hooks.h.
 */
#include "hooks.h"

#include <stdarg.h>
#include <stdio.h>

#include "client.h"

enum {
    LINE_SIZE = 1500
};

void
hooks_log(const struct hooks *hooks, enum qmq_level level, const char *format, ...)
{
    if (!hooks->log) return;
    char line[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    hooks->log(hooks->context, level, line);
}

void
hooks_log_fault(
    const struct hooks *hooks, enum qmq_level level, const char *what, const struct q_fault *fault)
{
    char text[Q_FAULT_LINE_MAX];
    hooks_log(hooks, level, "%s: %s", what, q_fault_format(fault, text, sizeof(text)));
}

void
qmq_metrics(struct qmq_client *client, qmq_metric_fn *each, void *context)
{
#define TELL(name, meaning) { #name, meaning, 0, false },
    struct qmq_metric metrics[] = { HOOKS_COUNTERS(TELL) };
    for (unsigned index = 0; index < COUNTERS; index++)
        metrics[index].value =
            atomic_load_explicit(&client->hooks.counters[index], memory_order_relaxed);

    /* An outcome may have been counted after its message was. */
    uint64_t sent = metrics[COUNT_sent].value;
    uint64_t over = metrics[COUNT_stored].value + metrics[COUNT_handed_over].value +
                    metrics[COUNT_failed].value;
    const struct qmq_metric in_flight = {
        .name = "in_flight",
        .meaning = "messages without an outcome",
        .value = sent - q_min_u64(over, sent),
        .is_gauge = true,
    };
    for (unsigned index = 0; index < COUNTERS; index++)
        each(context, &metrics[index]);
    each(context, &in_flight);
}
