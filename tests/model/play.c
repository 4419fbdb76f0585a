#include "play.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/batch.h>

#include "machine.h"
#include "reference.h"

enum {
    CLIENTS = 5, /* of each group; some are two processes with one id */
    KNOWN_MAX = 48,
    DEAD_MAX = 4096,
    LOG_MAX = 256,
    FILTERS = 8,
    SETTINGS = 4,
    ROUNDS_MAX = 10000,
    FRAME = 4096 /* the smallest */
};

static const char *const group_names[REF_GROUPS] = { "g", "h" };
static const char *const consumer_names[REF_CONSUMERS] = { "a", "b", "c" };
static const uint32_t consumer_of[CLIENTS] = { 0, 1, 2, 0, 1 };

static const struct {
    uint8_t tags;
    bool all;
} filters[FILTERS] = {
    { 0, false }, { 0, false }, { 0, false }, { 1, false },
    { 2, true },  { 3, false }, { 3, true },  { 14, false },
};

/* All of it, as defaults are the machine's. */
static const struct qlog_group_settings settings[SETTINGS] = {
    { .attempts_max = 3,
      .pending_max = 20000,
      .filter_keep_ms = 60 * 1000,
      .backoff_count = 2,
      .backoff_ms = { 1000, 4000 } },
    { .strict = true,
      .attempts_max = 4,
      .pending_max = 20000,
      .filter_keep_ms = 600 * 1000,
      .backoff_count = 3,
      .backoff_ms = { 500, 2000, 60 * 1000 } },
    { .attempts_max = 16,
      .pending_max = 6,
      .filter_keep_ms = 20 * 1000,
      .backoff_count = 1,
      .backoff_ms = { 3000 } },
    { .strict = true,
      .ack_sync = true,
      .attempts_max = 2,
      .pending_max = 9,
      .filter_keep_ms = 45 * 1000,
      .backoff_count = 1,
      .backoff_ms = { 2000 } },
};

/* A process that consumes, and what it knows. */
struct client {
    uint64_t session;
    uint64_t token;
    uint64_t received;
    uint64_t received_before;
    uint64_t known[KNOWN_MAX]; /* the last pull sequences that it was given */
    uint32_t known_count;
};

/* What the model did since all actions were durable: power loss takes the end of it. */
struct logged {
    struct play_op op;
    uint64_t now_ms;
    uint64_t end;         /* of the subject */
    uint64_t tail;        /* of the action log, after it */
    uint64_t session;     /* that a join gave, */
    uint64_t next;        /* … and where its pull sequences begin */
    struct client client; /* before it */
};

struct play {
    struct machine machine;
    struct reference ref;
    struct client clients[REF_GROUPS][CLIENTS];
    uint64_t tokens;
    struct ref_dead dead[DEAD_MAX];
    uint32_t dead_seen[REF_GROUPS]; /* numbers in `dead` */
    uint64_t dead_at[REF_GROUPS];   /* sequences of dead letters */
    struct ref_state durable;
    struct logged log[LOG_MAX];
    uint32_t log_count;
    bool plain;    /* nothing but simple operations since */
    uint64_t tail; /* of the action log, after the last operation */
    FILE *told;
    char *text; /* "": no difference yet */
};

/* Of an operation, what the model is told. */
struct asked {
    struct ref_who who;
    struct client *client;
    struct qlog_range ranges[2];
    uint32_t range_count;
};

static void differ(struct play *play, const char *format, ...) Q_PRINTF(2, 3);

typedef void play_fn(struct play *play, const struct play_op *op);
#define PLAY_DECLARE(name, often, what) static play_fn play_##name;
PLAY_LIST(PLAY_DECLARE)
#undef PLAY_DECLARE

static const struct {
    const char *name;
    unsigned often;
    const char *what;
    play_fn *play;
} kinds[] = {
#define PLAY_ROW(name, often, what) { #name, often, what, play_##name },
    PLAY_LIST(PLAY_ROW)
#undef PLAY_ROW
};

static void play_compare(struct play *play);
static void play_note(
    struct play *play, const struct play_op *op, const struct client *before, uint64_t session);

/* --- Operations as text, and at random. */

struct play_op
play_random(struct random_source *random)
{
    unsigned all = 0;
    for (unsigned i = 0; i < PLAY_KINDS; i++)
        all += kinds[i].often;
    unsigned at = random_below(random, all);
    struct play_op op = { .kind = 0 };
    while (at >= kinds[op.kind].often)
        at -= kinds[op.kind++].often;
    for (unsigned i = 0; i < PLAY_NUMBERS; i++)
        op.numbers[i] = random_below(random, 1000);
    return op;
}

bool
play_parse(const char *line, struct play_op *ret_op)
{
    char name[32];
    int used = 0;
    *ret_op = (struct play_op){ 0 };
    if (sscanf(line, "%31s%n", name, &used) != 1) return false;
    while (ret_op->kind < PLAY_KINDS && strcmp(kinds[ret_op->kind].name, name) != 0)
        ret_op->kind++;
    const char *at = line + used;
    for (unsigned i = 0; i < PLAY_NUMBERS; i++) {
        char *end;
        ret_op->numbers[i] = (uint32_t)strtoul(at, &end, 10);
        at = end;
    }
    return ret_op->kind < PLAY_KINDS;
}

void
play_print(FILE *out, const struct play_op *op)
{
    (void)fprintf(out, "%s", kinds[op->kind].name);
    for (unsigned i = 0; i < PLAY_NUMBERS; i++)
        (void)fprintf(out, " %u", op->numbers[i]);
    (void)fprintf(out, "\n");
}

/* --- Play. */

int
play(
    struct ramdisk *disk,
    const struct play_op *ops,
    unsigned count,
    FILE *told,
    char text[PLAY_TEXT_MAX])
{
    static struct play play;
    memset(&play, 0, sizeof(play));
    play.told = told;
    play.text = text;
    play.plain = true;
    text[0] = '\0';
    machine_start(&play.machine, disk);
    play.ref.dead = play.dead;
    play.ref.dead_max = DEAD_MAX;
    play.ref.state.now_ms = play.machine.clock.wall_ms;
    play.ref.state.generation = machine_generation(&play.machine);
    play.durable = play.ref.state;
    play.tail = machine_actions_end(&play.machine);
    int failed = -1;
    for (unsigned i = 0; i < count && failed < 0; i++) {
        if (told != NULL) (void)fprintf(told, "%4u  ", i);
        if (told != NULL) play_print(told, &ops[i]);
        kinds[ops[i].kind].play(&play, &ops[i]);
        if (text[0] == '\0') play_compare(&play);
        if (text[0] != '\0') failed = (int)i;
    }
    machine_stop(&play.machine);
    return failed;
}

static void
differ(struct play *play, const char *format, ...)
{
    if (play->text[0] != '\0') return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(play->text, PLAY_TEXT_MAX, format, args);
    va_end(args);
}

static void
tell(struct play *play, const char *format, ...)
{
    if (play->told == NULL) return;
    va_list args;
    va_start(args, format);
    (void)fprintf(play->told, "          ");
    (void)vfprintf(play->told, format, args);
    (void)fprintf(play->told, "\n");
    va_end(args);
}

#define SAME(play, what, machine, model)                                                           \
    do {                                                                                           \
        if ((uint64_t)(machine) != (uint64_t)(model))                                              \
            differ(                                                                                \
                (play), "%s: the machine says %llu, the model %llu", (what),                       \
                (unsigned long long)(machine), (unsigned long long)(model));                       \
    } while (0)

static bool
same_err(struct play *play, const char *what, enum q_err machine, enum q_err model)
{
    tell(play, "%s: %s", what, q_err_name(machine));
    if (machine != model)
        differ(
            play, "%s: the machine answers %s, the model %s", what, q_err_name(machine),
            q_err_name(model));
    return machine == Q_OK && model == Q_OK;
}

/* --- Groups are held against each other after each operation. */

static void
compare_group(struct play *play, uint32_t number)
{
    const struct ref_group *group = &play->ref.state.groups[number];
    struct qlog_lag lag = {
        .request = { .kind = QLOG_LAG },
        .subject = q_bytes_from_text(machine_subject),
        .group = q_bytes_from_text(group_names[number]),
    };
    enum q_err err = machine_run(&play->machine, &lag.request);
    if ((err == Q_OK) != group->exists) {
        differ(play, "group %s: %s", group_names[number], q_err_name(err));
        return;
    }
    if (err != Q_OK) return;
    struct ref_lag model = ref_lag(&play->ref, number);
    SAME(play, "lag: cursor", lag.cursor, group->cursor);
    SAME(play, "lag: epoch", lag.epoch, group->epoch);
    SAME(play, "lag: waiting", lag.waiting, model.waiting);
    SAME(play, "lag: in flight", lag.in_flight, model.in_flight);
    SAME(play, "lag: pending, retry", lag.pending_retry, model.pending[REF_RETRY]);
    SAME(play, "lag: pending, released", lag.pending_released, model.pending[REF_RELEASED]);
    SAME(play, "lag: pending, key", lag.pending_key, model.pending[REF_KEY]);
    SAME(play, "lag: pending, filter", lag.pending_filter, model.pending[REF_FILTER]);
    SAME(play, "lag: pending, dying", lag.pending_dying, model.pending[REF_DYING]);
    SAME(play, "lag: ready", lag.ready, model.ready);
    SAME(play, "lag: dead", lag.dead, group->dead);
    SAME(play, "lag: expired", lag.expired, group->expired);
    SAME(play, "lag: skipped", lag.skipped, group->skipped);
    SAME(play, "lag: paused", lag.paused, group->paused);
    SAME(play, "lag: held", lag.held, model.held);
    SAME(play, "lag: members", lag.member_count, model.members);
    SAME(play, "lag: filters", lag.filter_count, model.filters);
    SAME(play, "lag: consumers", lag.consumer_count, model.consumers);
    SAME(play, "lag: attempts", lag.settings.attempts_max, group->settings.attempts_max);
    /* What is dropped at the cursor is found out when the cursor passes it. */
    if (group->cursor >= play->ref.state.first) SAME(play, "lag: oldest", lag.oldest, model.oldest);
}

static void
compare_dead(struct play *play, uint32_t group)
{
    for (; play->dead_seen[group] < play->ref.dead_count; play->dead_seen[group]++) {
        const struct ref_dead *model = &play->dead[play->dead_seen[group]];
        if (model->group != group) continue;
        struct machine_dead dead;
        char error[16] = "";
        if (model->error != 0) (void)snprintf(error, sizeof(error), "error %u", model->error);
        if (!machine_next_dead(&play->machine, group_names[group], &play->dead_at[group], &dead)) {
            differ(play, "no dead letter of message %llu", (unsigned long long)model->sequence);
            return;
        }
        SAME(play, "dead letter: sequence", dead.sequence, model->sequence);
        SAME(play, "dead letter: failed", dead.failed, model->failed);
        SAME(play, "dead letter: timed out", dead.timed_out, model->timed_out);
        SAME(play, "dead letter: died", dead.died, model->died);
        SAME(play, "dead letter: expired", dead.expired, model->expired);
        SAME(
            play, "dead letter: attempts", dead.attempts,
            model->failed + model->timed_out + model->died);
        if (strcmp(dead.error, error) != 0)
            differ(play, "dead letter: error \"%s\" instead of \"%s\"", dead.error, error);
    }
}

static void
play_compare(struct play *play)
{
    machine_check(&play->machine);
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        compare_group(play, i);
        compare_dead(play, i);
    }
    play->tail = machine_actions_end(&play->machine);
    if (!machine_is_flushed(&play->machine)) return;
    play->durable = play->ref.state;
    play->log_count = 0;
    play->plain = true;
}

/* --- What clients do. */

static struct qlog_consumer
consumer_name(const struct asked *asked)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(machine_subject),
        .group = q_bytes_from_text(group_names[asked->who.group]),
        .consumer = q_bytes_from_text(consumer_names[asked->who.consumer]),
        .session = asked->who.session,
    };
}

static struct asked
asked_of(struct play *play, const struct play_op *op)
{
    uint32_t group = op->numbers[0] % REF_GROUPS;
    uint32_t number = op->numbers[1] % CLIENTS;
    struct client *client = &play->clients[group][number];
    return (struct asked){
        .client = client,
        .who = { .group = group, .consumer = consumer_of[number], .session = client->session },
    };
}

/* Two ranges of what the client was given, in any order; the second one now and then only. */
static void
asked_ranges(struct asked *asked, const struct play_op *op)
{
    const struct client *client = asked->client;
    if (client->known_count == 0) return;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t first = op->numbers[2 + 2 * i] % client->known_count;
        uint32_t length = 1 + op->numbers[3 + 2 * i] % 4;
        if (i == 1 && op->numbers[3 + 2 * i] % 3 != 0) break;
        uint32_t last = (uint32_t)q_min_u64(first + length, client->known_count) - 1;
        struct qlog_range range = {
            q_min_u64(client->known[first], client->known[last]),
            q_max_u64(client->known[first], client->known[last]),
        };
        if (i == 1 && range.first <= asked->ranges[0].last && range.last >= asked->ranges[0].first)
            break;
        asked->ranges[asked->range_count++] = range;
    }
}

static struct ref_message
random_message(struct random_source *random)
{
    struct ref_message message = {
        .tags = (uint8_t)(random_below(random, 3) == 0 ? 0 : random_below(random, 16)),
        .key = (uint8_t)(random_below(random, 2) == 0 ? 0 : random_below(random, 4)),
        .only = (uint8_t)(random_below(random, 16) == 0 ? 1 + random_below(random, REF_GROUPS) : 0),
    };
    return message;
}

static void
play_publish(struct play *play, const struct play_op *op)
{
    struct ref_message messages[4];
    struct machine_message sent[4];
    struct random_source random = { .state = op->numbers[1] };
    uint32_t count = 1 + op->numbers[0] % 4;
    if (play->ref.state.end + count > REF_MESSAGES) return;
    for (uint32_t i = 0; i < count; i++) {
        messages[i] = random_message(&random);
        uint8_t only = messages[i].only;
        sent[i] = (struct machine_message){
            messages[i].tags,
            messages[i].key,
            only == 0 ? NULL : group_names[only - 1],
        };
    }
    ref_publish(&play->ref, messages, count);
    same_err(play, "publish", machine_publish(&play->machine, sent, count), Q_OK);
}

static struct ref_answer
model_join(struct play *play, const struct play_op *op, const struct asked *asked, uint64_t next)
{
    const struct ref_join join = {
        .who = asked->who,
        .token = asked->client->token,
        .next = next,
        .tags = filters[op->numbers[2] % FILTERS].tags,
        .all = filters[op->numbers[2] % FILTERS].all,
        .start = op->numbers[3] % 4 == 0 ? QLOG_START_LATEST : QLOG_START_EARLIEST,
        .settings = &settings[op->numbers[4] % SETTINGS],
    };
    return ref_join(&play->ref, &join);
}

static void
play_join(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct client *client = asked.client;
    bool again = op->numbers[5] % 4 == 0 && client->token != 0;
    if (!again) client->token = ++play->tokens;
    struct qlog_join join = {
        .request = { .kind = QLOG_JOIN },
        .who = consumer_name(&asked),
        .tags_all = filters[op->numbers[2] % FILTERS].all,
        .start = op->numbers[3] % 4 == 0 ? QLOG_START_LATEST : QLOG_START_EARLIEST,
        .settings = &settings[op->numbers[4] % SETTINGS],
    };
    join.tag_count = machine_tags(filters[op->numbers[2] % FILTERS].tags, join.tags);
    q_store_le64(join.token, client->token);
    enum q_err err = machine_run(&play->machine, &join.request);
    struct client before = *client;
    asked.who.session = join.session;
    uint64_t next = machine_next_pull(
        &play->machine, group_names[asked.who.group], consumer_names[asked.who.consumer]);
    struct ref_answer model = model_join(play, op, &asked, next);
    if (same_err(play, "join", err, model.err)) {
        uint64_t session =
            play->ref.state.groups[asked.who.group].consumers[asked.who.consumer].session;
        SAME(play, "join: session", join.session, session);
        SAME(play, "join: cursor", join.cursor, model.cursor);
        SAME(play, "join: waiting", join.waiting, model.waiting);
        SAME(play, "join: pending", join.pending, model.pending);
        SAME(play, "join: unacked", join.unacked, model.unacked);
        SAME(play, "join: created", join.group_created, model.created);
        if (model.reused)
            differ(play, "pull sequences from %llu were given before", (unsigned long long)next);
        client->session = join.session;
        if (!again) client->received = client->received_before = 0;
    }
    play_note(play, op, &before, join.session);
    if (play->plain) play->log[play->log_count - 1].next = next;
}

static void
play_leave(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_session leave = {
        .request = { .kind = QLOG_LEAVE },
        .who = consumer_name(&asked),
    };
    enum q_err err = machine_run(&play->machine, &leave.request);
    same_err(play, "leave", err, ref_leave(&play->ref, &asked.who).err);
    play_note(play, op, asked.client, 0);
}

static void
play_keep(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_session keep = {
        .request = { .kind = QLOG_KEEP_ALIVE },
        .who = consumer_name(&asked),
    };
    enum q_err err = machine_run(&play->machine, &keep.request);
    same_err(play, "keep alive", err, ref_keep_alive(&play->ref, &asked.who).err);
    play_note(play, op, asked.client, 0);
}

/* --- Pulls. */

static struct ref_pull
pull_of(const struct play_op *op, const struct asked *asked)
{
    static const uint32_t invisible_ms[] = { 0, 0, 0, 2000, 7000, 45000 };
    return (struct ref_pull){
        .who = asked->who,
        .max = 1 + op->numbers[2] % 7,
        /* The last answer was lost, now and then. */
        .received =
            op->numbers[3] % 8 == 0 ? asked->client->received_before : asked->client->received,
        .invisible_ms = invisible_ms[op->numbers[4] % 6],
        .once = op->numbers[5] % 16 == 0,
    };
}

/* Whether the answer has the batch that holds the message. */
static bool
has_piece(const struct qlog_pull *pull, uint64_t sequence)
{
    for (uint32_t i = 0; i < pull->piece_count; i++) {
        const struct qlog_piece *piece = &pull->pieces[i];
        struct qbatch batch;
        enum q_err err = qbatch_open(q_bytes_from(piece->envelope, piece->envelope_size), &batch);
        Q_ASSERT(err == Q_OK);
        if (sequence - batch.first_sequence < batch.message_count) return true;
    }
    return false;
}

static void
compare_pull(struct play *play, const struct qlog_pull *pull, const struct ref_answer *model)
{
    struct ref_hand hands[REF_PULL_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < pull->run_count; i++)
        for (uint32_t j = 0; j < pull->runs[i].count && count < REF_PULL_MAX; j++)
            hands[count++] = (struct ref_hand){
                pull->runs[i].pull_sequence + j,
                pull->runs[i].sequence + j,
                pull->runs[i].attempt,
            };
    for (uint32_t i = 0; i < count; i++)
        tell(
            play, "    %llu: message %llu, attempt %u", (unsigned long long)hands[i].pull_sequence,
            (unsigned long long)hands[i].sequence, hands[i].attempt);
    SAME(play, "pull: messages", count, model->hand_count);
    for (uint32_t i = 0; i < count && i < model->hand_count; i++) {
        SAME(play, "pull: message", hands[i].sequence, model->hands[i].sequence);
        SAME(play, "pull: pull sequence", hands[i].pull_sequence, model->hands[i].pull_sequence);
        SAME(play, "pull: attempt", hands[i].attempt, model->hands[i].attempt);
    }
    for (uint32_t i = 0; i < count; i++)
        SAME(play, "pull: its batch is there", has_piece(pull, hands[i].sequence), true);
    SAME(play, "pull: unacked", pull->unacked, model->unacked);
    SAME(play, "pull: waiting", pull->waiting, model->waiting);
    SAME(play, "pull: held", pull->held, model->held);
}

static void
client_given(struct client *client, uint64_t pull_sequence)
{
    for (uint32_t i = 0; i < client->known_count; i++)
        if (client->known[i] == pull_sequence) return;
    if (client->known_count == KNOWN_MAX)
        memmove(client->known, client->known + 1, --client->known_count * sizeof(client->known[0]));
    client->known[client->known_count++] = pull_sequence;
}

static struct qlog_pull
pull_request(struct play *play, const struct asked *asked, const struct ref_pull *wanted)
{
    return (struct qlog_pull){
        .request = { .kind = QLOG_PULL },
        .who = consumer_name(asked),
        .messages_max = wanted->max,
        .bytes_max = 1024 * 1024,
        .received = wanted->received,
        .invisible_ms = wanted->invisible_ms,
        .once = wanted->once,
        .runs = play->machine.runs,
        .runs_max = MACHINE_RUNS_MAX,
        .pieces = play->machine.pieces,
        .pieces_max = MACHINE_RUNS_MAX,
    };
}

static void
pull_answered(
    struct play *play,
    const struct asked *asked,
    const struct ref_pull *wanted,
    struct qlog_pull *pull,
    const struct ref_answer *model)
{
    compare_pull(play, pull, model);
    qlog_pull_release(pull);
    for (uint32_t i = 0; i < model->hand_count; i++)
        client_given(asked->client, model->hands[i].pull_sequence);
    if (model->hand_count == 0) return;
    asked->client->received_before = wanted->received;
    asked->client->received = model->hands[model->hand_count - 1].pull_sequence + 1;
}

static void
play_pull(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct client before = *asked.client;
    struct ref_pull wanted = pull_of(op, &asked);
    struct qlog_pull pull = pull_request(play, &asked, &wanted);
    enum q_err err = machine_run(&play->machine, &pull.request);
    struct ref_answer model = ref_pull(&play->ref, &wanted);
    if (same_err(play, "pull", err, model.err)) pull_answered(play, &asked, &wanted, &pull, &model);
    play_note(play, op, &before, 0);
}

static bool
is_due_now(const struct ref_state *state, uint32_t number)
{
    const struct ref_group *group = &state->groups[number];
    for (uint64_t i = 0; i < group->cursor; i++)
        if (group->rows[i].place == REF_PENDING && group->rows[i].time_ms == state->now_ms)
            return true;
    return false;
}

/*
 * A pull that waits is answered as soon as something is due for it. It waits no longer than until
 * something else happens by itself: of several things in one millisecond the first one answers it.
 */
static void
play_wait(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct ref_pull wanted = pull_of(op, &asked);
    struct qlog_pull pull = pull_request(play, &asked, &wanted);
    uint64_t now_ms = play->ref.state.now_ms;
    uint64_t until_ms = now_ms + op->numbers[5] * UINT64_C(20);
    until_ms = q_min_u64(until_ms, ref_next_ms(&play->ref, false) - 1);
    pull.wait_ns = (until_ms - now_ms) * Q_NS_PER_MS;
    struct machine_call call;
    machine_begin(&play->machine, &pull.request, &call);
    struct ref_answer model = ref_pull(&play->ref, &wanted);
    play->plain = false;
    while (model.err == Q_OK && model.hand_count == 0 && play->ref.state.now_ms < until_ms) {
        if (call.done) differ(play, "wait: answered early, with nothing");
        now_ms = q_min_u64(until_ms, ref_next_ms(&play->ref, true));
        machine_time(&play->machine, now_ms);
        ref_time(&play->ref, now_ms);
        if (now_ms == until_ms || is_due_now(&play->ref.state, asked.who.group))
            model = ref_pull(&play->ref, &wanted);
    }
    if (!call.done) {
        differ(play, "wait: there is something, and it is not answered");
        machine_time(&play->machine, until_ms);
    }
    if (same_err(play, "wait", call.err, model.err))
        pull_answered(play, &asked, &wanted, &pull, &model);
}

/* --- Acks. */

static void
compare_late(
    struct play *play,
    const struct asked *asked,
    const struct qlog_range *late,
    uint32_t count,
    const struct ref_answer *model)
{
    SAME(play, "ranges that came too late", count, model->late_count);
    for (uint32_t i = 0; i < model->late_count; i++) {
        const struct qlog_range *range = &asked->ranges[model->late[i]];
        bool told = false;
        for (uint32_t j = 0; j < count; j++)
            told |= late[j].first == range->first && late[j].last == range->last;
        if (!told)
            differ(
                play, "pull sequences %llu to %llu came too late, and are not told",
                (unsigned long long)range->first, (unsigned long long)range->last);
    }
}

static void
play_ack(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_range late[4];
    asked_ranges(&asked, op);
    if (asked.range_count == 0) return;
    struct qlog_ack ack = {
        .request = { .kind = QLOG_ACK },
        .who = consumer_name(&asked),
        .ranges = asked.ranges,
        .range_count = asked.range_count,
        .expired = late,
        .expired_max = 4,
    };
    for (uint32_t i = 0; i < asked.range_count; i++)
        tell(
            play, "    %llu to %llu", (unsigned long long)asked.ranges[i].first,
            (unsigned long long)asked.ranges[i].last);
    enum q_err err = machine_run(&play->machine, &ack.request);
    struct ref_answer model = ref_ack(&play->ref, &asked.who, asked.ranges, asked.range_count);
    if (same_err(play, "ack", err, model.err)) {
        SAME(play, "ack: unacked", ack.unacked, model.unacked);
        compare_late(play, &asked, late, ack.expired_count, &model);
    }
    play_note(play, op, asked.client, 0);
}

static uint64_t
nack_delay_ms(const struct play_op *op)
{
    static const uint64_t delays_ms[] = {
        QLOG_DELAY_BACKOFF, QLOG_DELAY_BACKOFF, QLOG_DELAY_BACKOFF, 0, 1500, 96 * 3600 * 1000,
    };
    return delays_ms[op->numbers[4] % 6];
}

static void
play_nack(struct play *play, const struct play_op *op)
{
    struct asked asked = asked_of(play, op);
    struct qlog_range late[4];
    struct play_op one = *op;
    one.numbers[5] = 1; /* one range: the place of the second is the error's */
    asked_ranges(&asked, &one);
    if (asked.range_count == 0) return;
    uint8_t error = (uint8_t)(op->numbers[5] % 4);
    char text[16] = "";
    if (error != 0) (void)snprintf(text, sizeof(text), "error %u", error);
    struct qlog_nack nack = {
        .request = { .kind = QLOG_NACK },
        .who = consumer_name(&asked),
        .ranges = asked.ranges,
        .range_count = asked.range_count,
        .delay_ms = nack_delay_ms(op),
        .error = q_bytes_from_text(text),
        .expired = late,
        .expired_max = 4,
    };
    tell(
        play, "    %llu to %llu", (unsigned long long)asked.ranges[0].first,
        (unsigned long long)asked.ranges[0].last);
    enum q_err err = machine_run(&play->machine, &nack.request);
    struct ref_answer model =
        ref_nack(&play->ref, &asked.who, asked.ranges, asked.range_count, nack_delay_ms(op), error);
    if (same_err(play, "nack", err, model.err)) {
        SAME(play, "nack: unacked", nack.unacked, model.unacked);
        SAME(play, "nack: dead", nack.dead_count, model.dying);
        compare_late(play, &asked, late, nack.expired_count, &model);
    }
    if (model.dying > 0) play->plain = false;
    play_note(play, op, asked.client, 0);
}

/* --- Time. */

static void
time_passes(struct play *play, uint64_t ms)
{
    uint64_t until_ms = play->ref.state.now_ms + ms;
    play->plain = false;
    while (play->ref.state.now_ms < until_ms) {
        uint64_t next_ms = q_min_u64(until_ms, ref_next_ms(&play->ref, true));
        machine_time(&play->machine, next_ms);
        ref_time(&play->ref, next_ms);
    }
}

static void
play_time(struct play *play, const struct play_op *op)
{
    static const uint32_t most_ms[] = { 100, 3000, 3000, 10000, 35000 };
    time_passes(play, 1 + op->numbers[0] * most_ms[op->numbers[1] % 5] / 1000);
}

static void
play_long_time(struct play *play, const struct play_op *op)
{
    time_passes(play, (1 + op->numbers[0] % 15) * UINT64_C(60000));
}

/* --- Groups as a whole. */

static void
control(struct play *play, uint32_t group, struct qlog_control *request)
{
    request->request.kind = QLOG_CONTROL;
    request->subject = q_bytes_from_text(machine_subject);
    request->group = q_bytes_from_text(group_names[group]);
    enum q_err err = machine_run(&play->machine, &request->request);
    struct ref_answer model = ref_control(&play->ref, group, request);
    play->plain = false;
    if (!same_err(play, "control", err, model.err)) return;
    if (request->kind == QLOG_CONTROL_DELETE) return;
    SAME(play, "control: affected", request->affected, model.affected);
    SAME(play, "control: cursor", request->cursor, model.cursor);
    SAME(play, "control: epoch", request->epoch, model.epoch);
}

static struct qlog_range
below_cursor(const struct play *play, const struct play_op *op)
{
    uint64_t cursor = play->ref.state.groups[op->numbers[0] % REF_GROUPS].cursor;
    uint64_t first = cursor - q_min_u64(cursor, op->numbers[1] % 12);
    return (struct qlog_range){ first, first + op->numbers[2] % 6 };
}

static void
play_seek(struct play *play, const struct play_op *op)
{
    static const enum qlog_start starts[] = {
        QLOG_START_EARLIEST,
        QLOG_START_LATEST,
        QLOG_START_SEQUENCE,
        QLOG_START_SEQUENCE,
    };
    struct qlog_control request = {
        .kind = QLOG_CONTROL_SEEK,
        .start = starts[op->numbers[1] % 4],
        .at = op->numbers[2] % (play->ref.state.end + 2),
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_skip(struct play *play, const struct play_op *op)
{
    struct qlog_control request = {
        .kind = QLOG_CONTROL_SKIP,
        .range = below_cursor(play, op),
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_resend(struct play *play, const struct play_op *op)
{
    struct qlog_control request = {
        .kind = QLOG_CONTROL_RESEND,
        .range = below_cursor(play, op),
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_pause(struct play *play, const struct play_op *op)
{
    struct qlog_control request = { .kind = QLOG_CONTROL_PAUSE };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_resume(struct play *play, const struct play_op *op)
{
    struct qlog_control request = { .kind = QLOG_CONTROL_RESUME };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_settings(struct play *play, const struct play_op *op)
{
    struct qlog_control request = {
        .kind = QLOG_CONTROL_SETTINGS,
        .settings = settings[op->numbers[1] % SETTINGS],
    };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_remove(struct play *play, const struct play_op *op)
{
    struct qlog_control request = { .kind = QLOG_CONTROL_DELETE };
    control(play, op->numbers[0] % REF_GROUPS, &request);
}

static void
play_trim(struct play *play, const struct play_op *op)
{
    (void)op;
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { INT64_MAX },
        .actions_before = { INT64_MAX },
    };
    enum q_err err = machine_run(&play->machine, &trim.request);
    same_err(play, "trim", err, Q_OK);
    ref_trim(&play->ref, machine_first(&play->machine));
    play->plain = false;
}

/* --- Stops and starts. */

static void
play_restart(struct play *play, const struct play_op *op)
{
    (void)op;
    uint64_t before = machine_state_hash(&play->machine);
    machine_restart(&play->machine, MACHINE_CLOSED);
    SAME(
        play, "state hash of the same state, replayed", machine_state_hash(&play->machine), before);
    uint64_t generation = machine_generation(&play->machine);
    SAME(play, "generation after a clean stop", generation, play->ref.state.generation);
    ref_restart(&play->ref, generation);
    play->plain = false;
}

static void
play_kill(struct play *play, const struct play_op *op)
{
    (void)op;
    machine_restart(&play->machine, MACHINE_KILLED);
    ref_restart(&play->ref, machine_generation(&play->machine));
    play->plain = false;
}

/* A simple operation, for which the model needs nothing but what was noted. */
static void
play_note(
    struct play *play, const struct play_op *op, const struct client *before, uint64_t session)
{
    /* With a second frame (a seal, or a statement) it can't be told whether its own is there. */
    uint64_t tail = machine_actions_end(&play->machine);
    if (play->log_count == LOG_MAX || tail > play->tail + FRAME) play->plain = false;
    if (!play->plain) return;
    play->log[play->log_count++] = (struct logged){
        .op = *op,
        .now_ms = play->ref.state.now_ms,
        .end = play->ref.state.end,
        .tail = tail,
        .session = session,
        .client = *before,
    };
}

static void
model_again(struct play *play, struct logged *logged)
{
    struct play_op op = logged->op;
    struct asked asked = asked_of(play, &op);
    asked.client = &logged->client;
    asked.who.session = logged->client.session;
    struct ref_pull pull = pull_of(&op, &asked);
    if (op.kind == PLAY_nack) op.numbers[5] = 1;
    asked_ranges(&asked, &op);
    switch (op.kind) {
    case PLAY_join:
        asked.who.session = logged->session;
        (void)model_join(play, &op, &asked, logged->next);
        break;
    case PLAY_leave:
        (void)ref_leave(&play->ref, &asked.who);
        break;
    case PLAY_keep:
        (void)ref_keep_alive(&play->ref, &asked.who);
        break;
    case PLAY_pull:
        (void)ref_pull(&play->ref, &pull);
        break;
    case PLAY_ack:
        (void)ref_ack(&play->ref, &asked.who, asked.ranges, asked.range_count);
        break;
    default:
        (void)ref_nack(
            &play->ref, &asked.who, asked.ranges, asked.range_count, nack_delay_ms(&op),
            (uint8_t)(logged->op.numbers[5] % 4));
        break;
    }
}

static void
play_power(struct play *play, const struct play_op *op)
{
    (void)op;
    /* What can't be told apart again is flushed first. */
    for (unsigned i = 0; !play->plain && i < ROUNDS_MAX && !machine_is_flushed(&play->machine); i++)
        time_passes(play, 250);
    if (!play->plain) {
        play->durable = play->ref.state;
        play->log_count = 0;
    }
    uint64_t end = play->ref.state.end;
    uint64_t now_ms = play->ref.state.now_ms;
    machine_restart(&play->machine, MACHINE_LOST);
    uint64_t tail = machine_actions_end(&play->machine);
    play->ref.state = play->durable;
    uint32_t kept = 0;
    while (kept < play->log_count && play->log[kept].tail <= tail) {
        play->ref.state.now_ms = play->log[kept].now_ms;
        play->ref.state.end = play->log[kept].end;
        model_again(play, &play->log[kept++]);
    }
    tell(play, "power: %u of %u operations are there", kept, play->log_count);
    play->ref.state.now_ms = now_ms;
    play->ref.state.end = end;
    ref_restart(&play->ref, machine_generation(&play->machine));
    play->plain = false;
}
