/*
 * sub.c: `qmq sub`: print messages, then acknowledge what was printed.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <qbase/clock.h>

#include "command.h"
#include "interrupt.h"

enum {
    MESSAGES_MAX = 512,
    WAIT_MS = 20 * 1000,
    WAIT_END_MS = 100, /* with -e, while messages wait that did not come */
    PATIENCE_S = 30,   /* with -e, for a broker that is away */
    TAGS_MAX = 10,
    GROUP_MAX = 100,
    OUT_BUFFER = 256 * 1024,
    EXIT_SIGNAL_BASE = 128,
};

struct sub {
    struct qmq_consumer *consumer;
    struct qmq_consumer_options wanted;
    uint64_t left; /* messages still to print */
    bool is_limited;
    bool ends;
    bool with_ids;
    bool is_terminal;
    uint64_t away_since_ns; /* 0: all is well */
    bool reader_is_gone;
};

static void default_group(char *out, size_t out_size);
static int consume(struct sub *sub);
static int no_message(struct sub *sub, int code, bool *ret_goes_on);
static bool is_drained(struct sub *sub);
static int print_and_ack(struct sub *sub, const struct qmq_batch *batch);
static bool print_message(const struct sub *sub, const struct qmq_message *message);
static int ack(struct sub *sub, const struct qmq_batch *batch);
static int write_failed(struct sub *sub);
static void say_joined(const struct sub *sub);
static void stop(void *context);

int
sub_run(const struct command *command, int argc, char **argv)
{
    struct sub sub = { .is_terminal = isatty(STDOUT_FILENO) };
    struct q_opt_list tags = { .count = 0 };
    const char *meta = meta_default();
    char group[GROUP_MAX + 1];
    default_group(group, sizeof(group));
    sub.wanted.group = group;
    const struct q_opt options[] = {
        { "group", 'g', Q_OPT_TEXT, &sub.wanted.group, "GROUP",
          "group whose progress is used; made when new (cli-$USER)", 0, 0 },
        { "count", 'n', Q_OPT_NUMBER, &sub.left, "N", "end after N messages", 0, 0 },
        { "exit", 'e', Q_OPT_FLAG, &sub.ends, NULL, "end when there is nothing left", 0, 0 },
        { "tag", 't', Q_OPT_LIST, &tags, "TAG", "only messages with this tag, or any of several", 0,
          0 },
        { "consumer", 0, Q_OPT_TEXT, &sub.wanted.consumer, "ID",
          "name within the group (one of its own for each process)", 0, 0 },
        { "id", 0, Q_OPT_FLAG, &sub.with_ids, NULL,
          "begin each line with the message's id and a tab: what comes twice has the same", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (tags.count > TAGS_MAX)
        return usage_error(command, "%u tags, a filter has %d at most", tags.count, TAGS_MAX);
    sub.wanted.subject = result.args[0];
    sub.wanted.tags = tags.values;
    sub.wanted.tag_count = tags.count;
    sub.is_limited = sub.left > 0;
    /* What is fetched ahead of a limit would be kept from the others for nothing. */
    sub.wanted.no_prefetch = sub.is_limited;

    interrupt_block();
    struct qmq_client *client = connect_to(meta, &exit_code);
    if (!client) return exit_code;
    if (qmq_consumer_new(client, &sub.wanted, &sub.consumer) != QMQ_OK) {
        exit_code = report_error("join group \"%s\" on \"%s\"", sub.wanted.group, result.args[0]);
    } else {
        interrupt_watch(stop, sub.consumer);
        exit_code = consume(&sub);
    }
    qmq_consumer_free(sub.consumer);
    qmq_client_free(client);
    return exit_code;
}

/* A user's name may hold what a group's may not. */
static void
default_group(char *out, size_t out_size)
{
    const char *user = getenv("USER");
    (void)snprintf(out, out_size, "cli-%s", user && *user ? user : "user");
    for (char *at = out; *at; at++)
        if (!isalnum((unsigned char)*at) && !strchr("._-", *at)) *at = '_';
}

static void
stop(void *context)
{
    qmq_consumer_stop(context);
}

static int
consume(struct sub *sub)
{
    static char out_buffer[OUT_BUFFER];
    (void)setvbuf(stdout, out_buffer, _IOFBF, sizeof(out_buffer));
    if (isatty(STDERR_FILENO)) say_joined(sub);

    bool goes_on = true;
    int exit_code = EXIT_OK;
    uint32_t wait_ms = sub->ends ? 0 : WAIT_MS;
    while (goes_on && exit_code == EXIT_OK) {
        uint64_t most = sub->is_limited && sub->left < MESSAGES_MAX ? sub->left : MESSAGES_MAX;
        struct qmq_batch *batch;
        int code = qmq_pull(sub->consumer, (uint32_t)most, wait_ms, &batch);
        if (code == QMQ_OK) {
            exit_code = print_and_ack(sub, batch);
            qmq_batch_free(batch);
            sub->away_since_ns = 0;
            goes_on = (!sub->is_limited || sub->left > 0) && !sub->reader_is_gone;
            wait_ms = sub->ends ? 0 : WAIT_MS;
        } else {
            exit_code = no_message(sub, code, &goes_on);
            wait_ms = sub->ends ? WAIT_END_MS : WAIT_MS;
        }
    }
    return exit_code;
}

static void
say_joined(const struct sub *sub)
{
    struct qmq_consumer_info info;
    qmq_consumer_info(sub->consumer, &info);
    unsigned long long waiting = info.waiting + info.pending + info.unacked;
    (void)fprintf(
        stderr, "joined group \"%s\" on %s, %s %llu%s, %llu waiting. Ctrl-C to leave.\n",
        sub->wanted.group, sub->wanted.subject, info.group_created ? "starting at" : "going on at",
        (unsigned long long)info.cursor, info.group_created ? " (earliest)" : "", waiting);
}

/* What a pull without messages means. */
static int
no_message(struct sub *sub, int code, bool *ret_goes_on)
{
    if (interrupt_signal()) {
        *ret_goes_on = false;
        return EXIT_SIGNAL_BASE + interrupt_signal();
    }
    struct qmq_error error = qmq_last_error();
    struct qmq_consumer_info info;
    qmq_consumer_info(sub->consumer, &info);
    if (code == QMQ_AGAIN && info.sources_away == 0) {
        sub->away_since_ns = 0;
        *ret_goes_on = !sub->ends || !is_drained(sub);
        return EXIT_OK;
    }
    if (code != QMQ_AGAIN && !error.retryable)
        return report_error("take messages of \"%s\"", sub->wanted.subject);

    uint64_t now_ns = q_clock_monotonic_ns(q_clock_system());
    if (sub->away_since_ns == 0) {
        sub->away_since_ns = now_ns;
        (void)fprintf(stderr, "qmq: waiting for a broker: %s\n", error.message);
    }
    bool has_patience = now_ns - sub->away_since_ns < PATIENCE_S * (uint64_t)Q_NS_PER_S;
    if (!sub->ends || has_patience) return EXIT_OK;
    return report_error("take all messages of \"%s\"", sub->wanted.subject);
}

/* The broker's last word after an empty pull. */
static bool
is_drained(struct sub *sub)
{
    struct qmq_consumer_info info;
    qmq_consumer_info(sub->consumer, &info);
    return info.waiting == 0 && info.unacked == 0 && info.fetched == 0;
}

static int
print_and_ack(struct sub *sub, const struct qmq_batch *batch)
{
    size_t count = qmq_batch_count(batch);
    for (size_t index = 0; index < count; index++)
        if (!print_message(sub, qmq_batch_message(batch, index))) return write_failed(sub);
    if (fflush(stdout) != 0) return write_failed(sub);

    if (sub->is_limited) sub->left -= count < sub->left ? count : sub->left;
    return ack(sub, batch);
}

static bool
print_message(const struct sub *sub, const struct qmq_message *message)
{
    char id[QMQ_ID_TEXT_SIZE];
    if (sub->is_terminal) {
        char clock[16];
        time_t seconds = (time_t)(message->id.time_ms / 1000);
        struct tm local;
        if (!localtime_r(&seconds, &local)) return false;
        (void)strftime(clock, sizeof(clock), "%H:%M:%S", &local);
        (void)printf(
            "[%llu] %s.%03u  %s", (unsigned long long)message->sequence, clock,
            (unsigned)(message->id.time_ms % 1000), qmq_id_text(&message->id, id));
        if (message->attempt > 1) (void)printf("  attempt %u", message->attempt);
        (void)printf("\n");
    } else if (sub->with_ids) {
        (void)printf("%s\t", qmq_id_text(&message->id, id));
    }
    size_t size = message->body.size;
    return fwrite(message->body.data, 1, size, stdout) == size && putc('\n', stdout) != EOF;
}

static int
write_failed(struct sub *sub)
{
    /* A reader that has enough, like `head`: what it did not take is given to the group again. */
    sub->reader_is_gone = true;
    if (errno == EPIPE) return EXIT_OK;
    (void)Q_FAIL(q_err_from_errno(errno), .sys = errno, .path = "stdout");
    return report_error("write");
}

static int
ack(struct sub *sub, const struct qmq_batch *batch)
{
    int code;
    struct qmq_error error;
    do {
        code = qmq_ack(sub->consumer, batch, 0, qmq_batch_count(batch));
        error = qmq_last_error();
    } while (code != QMQ_OK && error.retryable && !interrupt_signal());

    if (code == QMQ_OK) return EXIT_OK;
    if (interrupt_signal()) return EXIT_SIGNAL_BASE + interrupt_signal();
    int exit_code = report_error("acknowledge messages of \"%s\"", sub->wanted.subject);
    /* They were given to another consumer; nothing is wrong with those that follow. */
    return code == QMQ_EXPIRED ? EXIT_OK : exit_code;
}
