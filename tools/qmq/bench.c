/*
 * bench.c: see bench.h.
 */
#include "bench.h"

#include <string.h>
#include <sys/resource.h>

#include <qbase/clock.h>
#include <qbase/text.h>

#define SUBJECT "bench"

struct figure {
    const char *name;
    double value;
};

static void print_json(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    const struct bench_output *output);
static void print_text(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    const struct bench_output *output);
static void print_ratios(
    const struct bench_result *result,
    const struct figure *figures,
    const struct bench_output *output);
static void print_ratio(const struct bench_output *output, const char *name, double value);

enum {
    ONE_WAY_BLOCK_MS = 60 * 1000,
    FIGURE_COUNT = 4,
    QUANTILE_COUNT = 4
};

static const struct {
    const char *name;
    double quantile;
} quantiles[QUANTILE_COUNT] = {
    { "p50_us", 0.5 },
    { "p99_us", 0.99 },
    { "p999_us", 0.999 },
    { "max_us", 1 },
};

const char *
bench_subject(char *out, size_t out_size, uint64_t subject, uint64_t subjects)
{
    if (subjects == 1)
        (void)snprintf(out, out_size, SUBJECT);
    else
        (void)snprintf(out, out_size, SUBJECT "-%llu", (unsigned long long)subject);
    return out;
}

uint64_t
bench_cpu_ns(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
    uint64_t seconds = (uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec;
    uint64_t micros = (uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec;
    return seconds * Q_NS_PER_S + micros * Q_NS_PER_US;
}

static void
add_server(void *context, const struct qmq_broker_info *broker)
{
    uint64_t *ns = context;
    *ns += broker->cpu_us * Q_NS_PER_US;
}

uint64_t
bench_server_ns(struct qmq_client *client)
{
    uint64_t ns = 0;
    return qmq_brokers(client, add_server, &ns) == QMQ_OK ? ns : 0;
}

bool
bench_format(const struct command *command, const char *format, bool *ret_is_json)
{
    *ret_is_json = strcmp(format, "json") == 0;
    if (*ret_is_json || strcmp(format, "text") == 0) return true;
    (void)usage_error(command, "-o '%s': json or text", format);
    return false;
}

static void
fill_figures(const struct bench_result *result, struct figure *figures)
{
    double seconds = (double)result->took_ns / (double)Q_NS_PER_S;
    double messages = (double)result->messages;
    figures[0] = (struct figure){ "msgs_per_s", seconds > 0 ? messages / seconds : 0 };
    figures[1] =
        (struct figure){ "bytes_per_s", seconds > 0 ? (double)result->bytes / seconds : 0 };
    figures[2] = (struct figure){
        "server_cpu_us_per_msg",
        result->messages ? (double)result->server_ns / Q_NS_PER_US / messages : 0,
    };
    figures[3] = (struct figure){
        "client_cpu_us_per_msg",
        result->messages ? (double)result->cpu_ns / Q_NS_PER_US / messages : 0,
    };
}

bool
bench_ack(const struct command *command, const char *ack, struct qmq_producer_options *options)
{
    options->one_way = strcmp(ack, "none") == 0;
    options->mode = strcmp(ack, "async") == 0 ? QMQ_MODE_ASYNC : QMQ_MODE_SYNC;
    /* What is measured is what brokers take, not what a full memory drops. */
    if (options->one_way) options->block_ms = ONE_WAY_BLOCK_MS;
    if (options->one_way || options->mode == QMQ_MODE_ASYNC || strcmp(ack, "sync") == 0)
        return true;
    (void)usage_error(command, "--ack '%s': sync, async or none", ack);
    return false;
}

static double
quantile_us(const struct bench_result *result, size_t index)
{
    double quantile = quantiles[index].quantile;
    uint64_t ns = quantile < 1 ? q_hist_quantile(&result->latency, quantile) : result->latency.max;
    return (double)ns / Q_NS_PER_US;
}

void
bench_print(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    const struct bench_output *output)
{
    if (output->is_json)
        print_json(result, fields, field_count, output);
    else
        print_text(result, fields, field_count, output);
}

static void
print_json(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    const struct bench_output *output)
{
    struct figure figures[FIGURE_COUNT];
    fill_figures(result, figures);

    (void)printf(
        "{\"bench\":\"%s\",\"version\":\"%s\",\"duration_s\":%.3f,\"messages\":%llu", result->name,
        qmq_version(), (double)result->took_ns / (double)Q_NS_PER_S,
        (unsigned long long)result->messages);
    for (size_t index = 0; index < FIGURE_COUNT; index++)
        (void)printf(",\"%s\":%.3f", figures[index].name, figures[index].value);
    /* What is not measured is not told. */
    size_t quantile_count = result->latency.count > 0 ? QUANTILE_COUNT : 0;
    for (size_t index = 0; index < quantile_count; index++)
        (void)printf(",\"%s\":%.1f", quantiles[index].name, quantile_us(result, index));
    for (size_t index = 0; index < field_count; index++)
        (void)printf(",\"%s\":%llu", fields[index].name, (unsigned long long)fields[index].value);
    if (output->old) print_ratios(result, figures, output);
    (void)printf("}\n");
}

static void
print_text(
    const struct bench_result *result,
    const struct bench_field *fields,
    size_t field_count,
    const struct bench_output *output)
{
    struct figure figures[FIGURE_COUNT];
    fill_figures(result, figures);

    char size[32];
    (void)printf(
        "%s: %llu messages in %.2f s\n", result->name, (unsigned long long)result->messages,
        (double)result->took_ns / (double)Q_NS_PER_S);
    (void)printf(
        "  %.0f msg/s, %s/s; CPU of a message: %.3f us of the server, %.3f us here\n",
        figures[0].value, q_text_format_size((uint64_t)figures[1].value, size, sizeof(size)),
        figures[2].value, figures[3].value);
    size_t quantile_count = result->latency.count > 0 ? QUANTILE_COUNT : 0;
    if (quantile_count > 0) (void)printf("  latency:");
    for (size_t index = 0; index < quantile_count; index++)
        (void)printf("  %s %.1f", quantiles[index].name, quantile_us(result, index));
    (void)printf(quantile_count > 0 ? "\n " : " ");
    for (size_t index = 0; index < field_count; index++)
        (void)printf(
            " %s %llu%s", fields[index].name, (unsigned long long)fields[index].value,
            index + 1 < field_count ? "," : "\n");
    if (!output->old) return;
    (void)printf("  of %s:", output->old_path);
    print_ratios(result, figures, output);
    (void)printf("\n");
}

/* Only what both runs told. */
static void
print_ratios(
    const struct bench_result *result,
    const struct figure *figures,
    const struct bench_output *output)
{
    for (size_t index = 0; index < FIGURE_COUNT; index++)
        print_ratio(output, figures[index].name, figures[index].value);
    size_t quantile_count = result->latency.count > 0 ? QUANTILE_COUNT : 0;
    for (size_t index = 0; index < quantile_count; index++)
        print_ratio(output, quantiles[index].name, quantile_us(result, index));
}

static void
print_ratio(const struct bench_output *output, const char *name, double value)
{
    double old;
    if (!bench_old_figure(output, name, &old) || old <= 0) return;
    if (output->is_json)
        (void)printf(",\"%s_ratio\":%.3f", name, value / old);
    else
        (void)printf("  %s x %.2f", name, value / old);
}
