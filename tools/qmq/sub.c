/*
 * sub.c: `qmq sub`: print messages, then acknowledge what was printed.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "command.h"
#include "interrupt.h"
#include "show.h"
#include "start.h"

enum {
    MESSAGES_MAX = 512,
    WAIT_MS = 20 * 1000,
    WAIT_END_MS = 100, /* with -e, while messages wait that did not come */
    PATIENCE_S = 30,   /* with -e, for a broker that is away */
    PEEK_PAUSE_MS = 200,
    TAGS_MAX = 10,
    ANSWER_MAX = 100,
    GROUP_MAX = 100,
    OUT_BUFFER = 256 * 1024,
    EXIT_SIGNAL_BASE = 128,
};

enum ack_mode {
    ACK_AUTO,   /* once printed */
    ACK_MANUAL, /* the user is asked for each message */
    ACK_NONE,   /* at most once */
    ACK_REJECT, /* a negative ack for each */
};

struct sub {
    const char *subject;
    struct qmq_client *client;
    struct qmq_consumer *consumer;
    struct qmq_consumer_options wanted;
    enum ack_mode ack_mode;
    struct qmq_nack_options nack;
    enum show_format format;
    uint64_t batch_max;
    uint64_t left; /* messages still to print */
    bool is_limited;
    bool ends;
    bool peeks;
    uint64_t away_since_ns; /* 0: all is well */
    enum qmq_held held_said;
    bool reader_is_gone;
    bool is_enough; /* the user said so */
};

/* As they stand on the command line. */
struct sub_texts {
    const char *group;
    const char *consumer;
    const char *from;
    const char *tag_mode;
    const char *ack;
    const char *output;
    const char *error;
    struct q_opt_list tags;
    bool broadcast;
    bool with_ids;
    uint64_t invisible_ns;
    uint64_t delay_ns;
};

static int read_options(
    struct sub *sub, const struct command *command, const struct sub_texts *texts);
static int check_exclusive(
    const struct sub *sub, const struct command *command, const struct sub_texts *texts);
static bool choose(const char *text, const char *const *words, unsigned *ret_index);
static void default_group(char *out, size_t out_size);
static int peek(struct sub *sub);
static int join(struct sub *sub);
static int consume(struct sub *sub);
static int no_message(struct sub *sub, int code, bool *ret_goes_on);
static int held_back(struct sub *sub, const struct qmq_consumer_info *info, bool *ret_goes_on);
static bool is_drained(struct sub *sub);
static int print_batch(struct sub *sub, const struct qmq_batch *batch);
static int settle(struct sub *sub, const struct qmq_batch *batch);
static int ask(struct sub *sub, const struct qmq_batch *batch);
static int ack(struct sub *sub, const struct qmq_batch *batch, const struct qmq_nack_options *nack);
static int write_failed(struct sub *sub);
static void say_joined(const struct sub *sub);
static void stop(void *context);
static void wait_a_moment(void);

int
sub_run(const struct command *command, int argc, char **argv)
{
    struct sub sub = { .batch_max = MESSAGES_MAX };
    struct sub_texts texts = {
        .tag_mode = "any",
        .ack = "auto",
        .output = "text",
        .delay_ns = UINT64_MAX,
    };
    const char *meta = meta_default();
    char group[GROUP_MAX + 1];
    default_group(group, sizeof(group));
    const struct q_opt options[] = {
        { "group", 'g', Q_OPT_TEXT, &texts.group, "GROUP",
          "group whose progress is used; made when new (cli-$USER)", 0, 0 },
        { "broadcast", 0, Q_OPT_FLAG, &texts.broadcast, NULL,
          "every message, whoever else has it: a group of its own, named by --consumer", 0, 0 },
        { "peek", 0, Q_OPT_FLAG, &sub.peeks, NULL,
          "only look: no group is made or moved, and nothing is remembered", 0, 0 },
        { "from", 0, Q_OPT_TEXT, &texts.from, START_PARAM,
          "where a new group, or a look, begins (earliest; with --broadcast latest)", 0, 0 },
        { "broker-group", 0, Q_OPT_TEXT, &sub.wanted.broker_group, "NAME",
          "only what this broker group has; a sequence needs it when there are several", 0, 0 },
        { "count", 'n', Q_OPT_NUMBER, &sub.left, "N", "end after N messages", 0, 0 },
        { "exit", 'e', Q_OPT_FLAG, &sub.ends, NULL, "end when there is nothing left", 0, 0 },
        { "tag", 't', Q_OPT_LIST, &texts.tags, "TAG",
          "only messages with this tag, or any of several", 0, 0 },
        { "tag-mode", 0, Q_OPT_TEXT, &texts.tag_mode, "any|all", "of several tags (any)", 0, 0 },
        { "ack", 0, Q_OPT_TEXT, &texts.ack, "MODE",
          "auto: once printed; manual: ask for each; none: at most once; reject: fail each (auto)",
          0, 0 },
        { "delay", 0, Q_OPT_DURATION, &texts.delay_ns, "D",
          "what is rejected comes again after this time (the group's back-off)", 0, 0 },
        { "error", 0, Q_OPT_TEXT, &texts.error, "TEXT", "why it is rejected, for people", 0, 0 },
        { "invisible", 0, Q_OPT_DURATION, &texts.invisible_ns, "D",
          "what is not acknowledged after this time goes to others", Q_NS_PER_MS,
          UINT32_MAX * (uint64_t)Q_NS_PER_MS },
        { "batch", 0, Q_OPT_NUMBER, &sub.batch_max, "N", "messages of one pull (512)", 1, 10000 },
        { "consumer", 0, Q_OPT_TEXT, &texts.consumer, "ID",
          "name within the group (one of its own for each process)", 0, 0 },
        { "id", 0, Q_OPT_FLAG, &texts.with_ids, NULL,
          "begin each line with the message's id and a tab: what comes twice has the same", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &texts.output, "text|json",
          "json: one object per message, with all that is known of it", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    sub.subject = result.args[0];
    sub.wanted.group = group;
    exit_code = read_options(&sub, command, &texts);
    if (exit_code != EXIT_OK) return exit_code;

    interrupt_block();
    sub.client = connect_to(meta, &exit_code);
    if (!sub.client) return exit_code;
    static char out_buffer[OUT_BUFFER];
    (void)setvbuf(stdout, out_buffer, _IOFBF, sizeof(out_buffer));
    exit_code = sub.peeks ? peek(&sub) : join(&sub);
    qmq_client_free(sub.client);
    return exit_code;
}

static int
read_options(struct sub *sub, const struct command *command, const struct sub_texts *texts)
{
    static const char *const ack_modes[] = { "auto", "manual", "none", "reject", NULL };
    static const char *const tag_modes[] = { "any", "all", NULL };
    static const char *const outputs[] = { "text", "json", NULL };
    unsigned ack_mode;
    unsigned tag_mode;
    unsigned output;
    if (!choose(texts->ack, ack_modes, &ack_mode))
        return usage_error(command, "--ack '%s': auto, manual, none or reject", texts->ack);
    if (!choose(texts->tag_mode, tag_modes, &tag_mode))
        return usage_error(command, "--tag-mode '%s': any or all", texts->tag_mode);
    if (!choose(texts->output, outputs, &output))
        return usage_error(command, "-o '%s': text or json", texts->output);
    if (texts->tags.count > TAGS_MAX)
        return usage_error(
            command, "%u tags, a filter has %d at most", texts->tags.count, TAGS_MAX);
    struct qmq_consumer_options *wanted = &sub->wanted;
    if (texts->from && start_parse(texts->from, &wanted->start, &wanted->start_at) != Q_OK)
        return report_error("start");
    sub->ack_mode = (enum ack_mode)ack_mode;
    int exit_code = check_exclusive(sub, command, texts);
    if (exit_code != EXIT_OK) return exit_code;

    sub->format = output == 1             ? SHOW_JSON
                  : isatty(STDOUT_FILENO) ? SHOW_HUMAN
                  : texts->with_ids       ? SHOW_ID
                                          : SHOW_BODY;
    sub->nack.with_delay = texts->delay_ns != UINT64_MAX;
    sub->nack.delay_ms = texts->delay_ns / Q_NS_PER_MS;
    sub->nack.error = texts->error;
    wanted->subject = sub->subject;
    if (texts->group) wanted->group = texts->group;
    if (texts->broadcast) wanted->group = NULL;
    wanted->broadcast = texts->broadcast;
    wanted->consumer = texts->consumer;
    wanted->tags = texts->tags.values;
    wanted->tag_count = texts->tags.count;
    wanted->tags_all = tag_mode == 1;
    wanted->at_most_once = sub->ack_mode == ACK_NONE;
    wanted->invisible_ms = (uint32_t)(texts->invisible_ns / Q_NS_PER_MS);
    sub->is_limited = sub->left > 0;
    if (sub->ack_mode == ACK_MANUAL) sub->batch_max = 1;
    /* What is fetched ahead of a limit, or of a slow reader, would be kept from the others. */
    wanted->no_prefetch = sub->is_limited || sub->ack_mode == ACK_MANUAL;
    return EXIT_OK;
}

/* What makes no sense together is told, not left aside. */
static int
check_exclusive(const struct sub *sub, const struct command *command, const struct sub_texts *texts)
{
    bool rejects = sub->ack_mode == ACK_REJECT || sub->ack_mode == ACK_MANUAL;
    if (sub->peeks && (texts->group || texts->broadcast || texts->consumer))
        return usage_error(
            command, "--peek belongs to no group: leave -g, --broadcast, --consumer out");
    if (sub->peeks && sub->ack_mode != ACK_AUTO)
        return usage_error(command, "--peek has nothing to acknowledge: leave --ack out");
    if (texts->broadcast && texts->group)
        return usage_error(command, "either -g or --broadcast: its group is named by --consumer");
    if ((texts->delay_ns != UINT64_MAX || texts->error) && !rejects)
        return usage_error(command, "--delay and --error are for --ack reject or manual");
    if (texts->invisible_ns && (sub->peeks || sub->ack_mode == ACK_NONE))
        return usage_error(command, "--invisible is for messages that are acknowledged");
    return EXIT_OK;
}

static bool
choose(const char *text, const char *const *words, unsigned *ret_index)
{
    for (*ret_index = 0; words[*ret_index]; (*ret_index)++)
        if (strcmp(words[*ret_index], text) == 0) return true;
    return false;
}

/* --- Without a group. */

static int
peek(struct sub *sub)
{
    const struct qmq_reader_options options = {
        .subject = sub->subject,
        .start = sub->wanted.start,
        .start_at = sub->wanted.start_at,
        .broker_group = sub->wanted.broker_group,
        .tags = sub->wanted.tags,
        .tag_count = sub->wanted.tag_count,
        .tags_all = sub->wanted.tags_all,
    };
    struct qmq_reader *reader;
    if (qmq_reader_new(sub->client, &options, &reader) != QMQ_OK)
        return report_error("look at \"%s\"", sub->subject);
    interrupt_here();
    int exit_code = EXIT_OK;
    bool goes_on = true;
    while (goes_on && exit_code == EXIT_OK) {
        uint64_t most = sub->batch_max;
        if (sub->is_limited) most = q_min_u64(most, sub->left);
        struct qmq_batch *batch;
        int code = qmq_read(reader, (uint32_t)most, &batch);
        if (code == QMQ_OK) {
            exit_code = print_batch(sub, batch);
            qmq_batch_free(batch);
            goes_on = (!sub->is_limited || sub->left > 0) && !sub->reader_is_gone;
        } else if (code == QMQ_AGAIN || (code == QMQ_NOT_FOUND && !sub->ends)) {
            goes_on = !sub->ends;
            if (goes_on) wait_a_moment();
        } else if (sub->ends || !qmq_last_error().retryable) {
            exit_code = report_error("look at \"%s\"", sub->subject);
        } else {
            wait_a_moment();
        }
        if (interrupt_signal()) exit_code = EXIT_SIGNAL_BASE + interrupt_signal();
    }
    qmq_reader_free(reader);
    return exit_code;
}

static void
wait_a_moment(void)
{
    const struct timespec moment = { .tv_nsec = PEEK_PAUSE_MS * Q_NS_PER_MS };
    (void)nanosleep(&moment, NULL);
}

/* --- In a group. */

static int
join(struct sub *sub)
{
    int exit_code;
    if (qmq_consumer_new(sub->client, &sub->wanted, &sub->consumer) != QMQ_OK) {
        const char *group = sub->wanted.group ? sub->wanted.group : "of its own";
        exit_code = report_error("join group \"%s\" on \"%s\"", group, sub->subject);
    } else {
        interrupt_watch(stop, sub->consumer);
        exit_code = consume(sub);
    }
    qmq_consumer_free(sub->consumer);
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
    if (isatty(STDERR_FILENO)) say_joined(sub);

    bool goes_on = true;
    int exit_code = EXIT_OK;
    uint32_t wait_ms = sub->ends ? 0 : WAIT_MS;
    while (goes_on && exit_code == EXIT_OK) {
        uint64_t most = sub->batch_max;
        if (sub->is_limited) most = q_min_u64(most, sub->left);
        struct qmq_batch *batch;
        int code = qmq_pull(sub->consumer, (uint32_t)most, wait_ms, &batch);
        if (code == QMQ_OK) {
            exit_code = print_batch(sub, batch);
            if (exit_code == EXIT_OK && !sub->reader_is_gone) exit_code = settle(sub, batch);
            qmq_batch_free(batch);
            sub->away_since_ns = 0;
            goes_on =
                (!sub->is_limited || sub->left > 0) && !sub->reader_is_gone && !sub->is_enough;
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
    static const char *const starts[] = {
        [QMQ_START_DEFAULT] = "earliest",  [QMQ_START_EARLIEST] = "earliest",
        [QMQ_START_LATEST] = "latest",     [QMQ_START_TIME] = "by time",
        [QMQ_START_SEQUENCE] = "as asked",
    };
    struct qmq_consumer_info info;
    qmq_consumer_info(sub->consumer, &info);
    unsigned long long waiting = info.waiting + info.pending + info.unacked;
    bool is_default = sub->wanted.start == QMQ_START_DEFAULT && sub->wanted.broadcast;
    const char *start = is_default ? "latest" : starts[sub->wanted.start];
    (void)fprintf(
        stderr, "joined group \"%s\" on %s, %s %llu%s%s%s, %llu waiting. Ctrl-C to leave.\n",
        sub->wanted.group ? sub->wanted.group : info.consumer, sub->subject,
        info.group_created ? "starting at" : "going on at", (unsigned long long)info.cursor,
        info.group_created ? " (" : "", info.group_created ? start : "",
        info.group_created ? ")" : "", waiting);
    if (!info.group_created && sub->wanted.start != QMQ_START_DEFAULT)
        (void)fprintf(
            stderr, "  the group is not new: --from is left aside; to move it: qmq group seek\n");
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
        if (info.held != QMQ_HELD_NOT && info.waiting > 0)
            return held_back(sub, &info, ret_goes_on);
        *ret_goes_on = !sub->ends || !is_drained(sub);
        return EXIT_OK;
    }
    if (code != QMQ_AGAIN && !error.retryable)
        return report_error("take messages of \"%s\"", sub->subject);

    uint64_t now_ns = q_clock_monotonic_ns(q_clock_system());
    if (sub->away_since_ns == 0) {
        sub->away_since_ns = now_ns;
        (void)fprintf(stderr, "qmq: waiting for a broker: %s\n", error.message);
    }
    bool has_patience = now_ns - sub->away_since_ns < PATIENCE_S * (uint64_t)Q_NS_PER_S;
    if (!sub->ends || has_patience) return EXIT_OK;
    return report_error("take all messages of \"%s\"", sub->subject);
}

/* Messages wait and are not given out: said once; a paused group is not waited for with -e. */
static int
held_back(struct sub *sub, const struct qmq_consumer_info *info, bool *ret_goes_on)
{
    const char *group = sub->wanted.group ? sub->wanted.group : info->consumer;
    if (info->held == QMQ_HELD_PAUSED && sub->ends) {
        *ret_goes_on = false;
        (void)fprintf(
            stderr, "qmq: the group is paused, %llu messages wait\n  try: qmq group resume %s\n",
            (unsigned long long)info->waiting, group);
        return EXIT_CONFLICT;
    }
    if (info->held != sub->held_said)
        (void)fprintf(
            stderr, "qmq: %llu messages wait and are held back (%s)\n  see: qmq group lag %s\n",
            (unsigned long long)info->waiting, qmq_held_name(info->held), group);
    sub->held_said = info->held;
    return EXIT_OK;
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
print_batch(struct sub *sub, const struct qmq_batch *batch)
{
    size_t count = qmq_batch_count(batch);
    struct qmq_consumer_info info = { .consumer = NULL };
    if (sub->consumer) qmq_consumer_info(sub->consumer, &info);
    for (size_t index = 0; index < count; index++)
        if (!show_message(sub->client, info.consumer, qmq_batch_message(batch, index), sub->format))
            return write_failed(sub);
    if (fflush(stdout) != 0) return write_failed(sub);
    if (sub->is_limited) sub->left -= count < sub->left ? count : sub->left;
    return EXIT_OK;
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
settle(struct sub *sub, const struct qmq_batch *batch)
{
    switch (sub->ack_mode) {
    case ACK_NONE:
        return EXIT_OK;
    case ACK_REJECT:
        return ack(sub, batch, &sub->nack);
    case ACK_MANUAL:
        return ask(sub, batch);
    default:
        return ack(sub, batch, NULL);
    }
}

/* Enter or y: done. n: failed. q, or the end of input: enough, and this one goes back. */
static int
ask(struct sub *sub, const struct qmq_batch *batch)
{
    char answer[ANSWER_MAX];
    for (;;) {
        (void)fprintf(stderr, "done? [Y]es, [n]o: try again, [q]uit: ");
        if (!fgets(answer, sizeof(answer), stdin) || tolower((unsigned char)answer[0]) == 'q') {
            sub->is_enough = true;
            return EXIT_OK;
        }
        char letter = (char)tolower((unsigned char)answer[0]);
        if (letter == '\n' || letter == 'y') return ack(sub, batch, NULL);
        if (letter == 'n') return ack(sub, batch, &sub->nack);
    }
}

/* With `nack`: a negative one. */
static int
ack(struct sub *sub, const struct qmq_batch *batch, const struct qmq_nack_options *nack)
{
    size_t count = qmq_batch_count(batch);
    int code;
    struct qmq_error error;
    do {
        code = nack ? qmq_nack(sub->consumer, batch, 0, count, nack)
                    : qmq_ack(sub->consumer, batch, 0, count);
        error = qmq_last_error();
    } while (code != QMQ_OK && error.retryable && !interrupt_signal());

    if (code == QMQ_OK) return EXIT_OK;
    if (interrupt_signal()) return EXIT_SIGNAL_BASE + interrupt_signal();
    int exit_code =
        report_error("%s messages of \"%s\"", nack ? "reject" : "acknowledge", sub->subject);
    /* They were given to another consumer; nothing is wrong with those that follow. */
    return code == QMQ_EXPIRED ? EXIT_OK : exit_code;
}
