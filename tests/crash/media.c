#include "media.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

#include "random.h"

static struct media_effect *effect_add(struct media *media, enum media_effect_kind kind);
static void effect_free(struct media *media, unsigned index);
static bool effect_is_settled_by(
    const struct media *media, const struct media_effect *effect, const struct media_event *event);
static void effect_settle(struct media *media, unsigned index);
static void effect_store(struct media *media, const struct media_effect *effect);
static void effect_cover(struct media_effect *older, const struct media_effect *newer);
static void effect_lose_sector(struct media_effect *effect, unsigned sector);
static void crash_process(struct media *media, const struct crash_rule *rule);
static void crash_machine(struct media *media, const struct crash_rule *rule);
static void crash_names(struct media *media);

static void *
must(void *memory)
{
    Q_ASSERT(memory != NULL);
    return memory;
}

/* Contents beyond the size are never looked at; room is kept for one more than none. */
static void
file_resize(struct media_file *file, uint64_t size)
{
    if (size <= file->size) return;
    file->data = must(realloc(file->data, size));
    memset(file->data + file->size, 0, size - file->size);
    file->size = size;
}

struct media *
media_new(void)
{
    struct media *media = must(calloc(1, sizeof(*media)));
    media->names = must(calloc(1, sizeof(*media->names)));
    media->names[0] = (struct media_name){ .path = "/", .target = MEDIA_DIRECTORY };
    media->name_count = 1;
    return media;
}

struct media *
media_clone(const struct media *media)
{
    struct media *clone = must(malloc(sizeof(*clone)));
    *clone = *media;
    clone->files = must(calloc(media->file_count + 1, sizeof(*clone->files)));
    for (unsigned i = 0; i < media->file_count; i++) {
        clone->files[i].size = media->files[i].size;
        if (media->files[i].size == 0) continue;
        clone->files[i].data = must(malloc(media->files[i].size));
        memcpy(clone->files[i].data, media->files[i].data, media->files[i].size);
    }
    clone->names = must(calloc(media->name_count, sizeof(*clone->names)));
    memcpy(clone->names, media->names, media->name_count * sizeof(*clone->names));
    clone->effects = must(calloc(media->effect_capacity + 1, sizeof(*clone->effects)));
    for (unsigned i = 0; i < media->effect_count; i++) {
        clone->effects[i] = media->effects[i];
        if (media->effects[i].gone == NULL) continue;
        unsigned sectors = media->effects[i].length / MEDIA_SECTOR;
        clone->effects[i].gone = must(malloc(sectors));
        memcpy(clone->effects[i].gone, media->effects[i].gone, sectors);
    }
    return clone;
}

void
media_free(struct media *media)
{
    if (media == NULL) return;
    for (unsigned i = 0; i < media->file_count; i++)
        free(media->files[i].data);
    for (unsigned i = 0; i < media->effect_count; i++)
        free(media->effects[i].gone);
    free(media->files);
    free(media->names);
    free(media->effects);
    free(media);
}

bool
media_is_in(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    if (size > 0 && directory[size - 1] == '/') size--;
    return strncmp(path, directory, size) == 0 && path[size] == '/' && path[size + 1] != '\0' &&
           strchr(path + size + 1, '/') == NULL;
}

/* --- Events. */

static unsigned
name_find(struct media *media, const char *path)
{
    for (unsigned i = 0; i < media->name_count; i++)
        if (strcmp(media->names[i].path, path) == 0) return i;
    media->names = must(realloc(media->names, (media->name_count + 1) * sizeof(*media->names)));
    struct media_name *name = &media->names[media->name_count];
    name->target = MEDIA_NOTHING;
    (void)snprintf(name->path, sizeof(name->path), "%s", path);
    return media->name_count++;
}

void
media_apply(struct media *media, const struct media_event *event)
{
    uint64_t number = media->events++;
    struct media_effect *effect;
    switch (event->kind) {
    case MEDIA_NAMED:
        effect = effect_add(media, EFFECT_NAME);
        effect->complete = number;
        effect->name = name_find(media, event->path);
        effect->target = event->target;
        if (event->target >= 0 && (unsigned)event->target >= media->file_count) {
            media->file_count = (unsigned)event->target + 1;
            media->files = must(realloc(media->files, media->file_count * sizeof(*media->files)));
            media->files[event->target] = (struct media_file){ 0 };
        }
        break;
    case MEDIA_SIZED:
        effect = effect_add(media, EFFECT_SIZE);
        effect->complete = number;
        effect->file = event->file;
        effect->size = event->size;
        break;
    case MEDIA_WRITE:
        effect = effect_add(media, EFFECT_WRITE);
        effect->complete = MEDIA_NEVER;
        effect->file = event->file;
        effect->at = event->at;
        effect->length = event->length;
        effect->data = event->data;
        effect->zeros = q_is_zero(event->data, event->length);
        break;
    case MEDIA_WRITTEN:
        for (unsigned i = 0; i < media->effect_count; i++)
            if (media->effects[i].kind == EFFECT_WRITE && media->effects[i].born == event->begun)
                media->effects[i].complete = number;
        break;
    case MEDIA_SYNCED:
    case MEDIA_FLUSHED:
    case MEDIA_PASSED:
        break;
    case MEDIA_CRASHED:
        media_crash(media, &event->rule, false);
        return;
    }
    unsigned index = 0;
    while (index < media->effect_count) {
        if (effect_is_settled_by(media, &media->effects[index], event))
            effect_settle(media, index);
        else
            index++;
    }
}

static struct media_effect *
effect_add(struct media *media, enum media_effect_kind kind)
{
    if (media->effect_count == media->effect_capacity) {
        media->effect_capacity = media->effect_capacity == 0 ? 16 : media->effect_capacity * 2;
        media->effects =
            must(realloc(media->effects, media->effect_capacity * sizeof(*media->effects)));
    }
    struct media_effect *effect = &media->effects[media->effect_count++];
    *effect = (struct media_effect){ .kind = kind, .born = media->events - 1 };
    return effect;
}

static void
effect_free(struct media *media, unsigned index)
{
    free(media->effects[index].gone);
    media->effect_count--;
    memmove(
        &media->effects[index], &media->effects[index + 1],
        (media->effect_count - index) * sizeof(*media->effects));
}

static bool
effect_is_settled_by(
    const struct media *media, const struct media_effect *effect, const struct media_event *event)
{
    switch (event->kind) {
    case MEDIA_SYNCED:
        return effect->kind == EFFECT_NAME &&
               media_is_in(media->names[effect->name].path, event->path);
    case MEDIA_WRITTEN:
        if (!event->durable || effect->kind == EFFECT_NAME || effect->file != event->file)
            return false;
        return effect->kind == EFFECT_SIZE || effect->born == event->begun;
    case MEDIA_FLUSHED:
        return effect->kind != EFFECT_NAME && effect->file == event->file &&
               effect->complete < event->begun;
    default:
        return false;
    }
}

/* The effect is durable: what was submitted before can't show through it any more. */
static void
effect_settle(struct media *media, unsigned index)
{
    struct media_effect *effect = &media->effects[index];
    effect_store(media, effect);
    for (unsigned i = 0; i < index; i++)
        effect_cover(&media->effects[i], effect);
    effect_free(media, index);
}

static bool
effect_has_sector(const struct media_effect *effect, unsigned sector)
{
    return effect->gone == NULL || !effect->gone[sector];
}

static void
effect_store(struct media *media, const struct media_effect *effect)
{
    if (effect->kind == EFFECT_NAME) {
        media->names[effect->name].target = effect->target;
        return;
    }
    struct media_file *file = &media->files[effect->file];
    if (effect->kind == EFFECT_SIZE) {
        file_resize(file, effect->size);
        return;
    }
    for (unsigned i = 0; i < effect->length / MEDIA_SECTOR; i++) {
        uint64_t at = effect->at + (uint64_t)i * MEDIA_SECTOR;
        /* What lies beyond the size that survived is out of reach. */
        if (at + MEDIA_SECTOR > file->size || !effect_has_sector(effect, i)) continue;
        memcpy(file->data + at, effect->data + (size_t)i * MEDIA_SECTOR, MEDIA_SECTOR);
    }
}

static void
effect_cover(struct media_effect *older, const struct media_effect *newer)
{
    if (older->kind != EFFECT_WRITE || newer->kind != EFFECT_WRITE || older->file != newer->file)
        return;
    for (unsigned i = 0; i < older->length / MEDIA_SECTOR; i++) {
        uint64_t at = older->at + (uint64_t)i * MEDIA_SECTOR;
        if (at >= newer->at && at < newer->at + newer->length &&
            effect_has_sector(newer, (unsigned)((at - newer->at) / MEDIA_SECTOR)))
            effect_lose_sector(older, i);
    }
}

static void
effect_lose_sector(struct media_effect *effect, unsigned sector)
{
    if (effect->gone == NULL) effect->gone = must(calloc(1, effect->length / MEDIA_SECTOR));
    effect->gone[sector] = 1;
}

/* --- Crashes. */

static const char *const crash_names_of_kinds[] = {
    [CRASH_KILL_NONE] = "kill-none", [CRASH_KILL_ALL] = "kill-all", [CRASH_KILL_RANDOM] = "kill",
    [CRASH_NONE] = "none",           [CRASH_ALL] = "all",           [CRASH_META] = "meta",
    [CRASH_DATA] = "data",           [CRASH_DROP] = "drop",         [CRASH_KEEP] = "keep",
    [CRASH_RANDOM] = "random",       [CRASH_SECTORS] = "sectors",   [CRASH_TORN] = "torn",
};

const char *
crash_rule_text(const struct crash_rule *rule, char *out, size_t out_size)
{
    (void)snprintf(out, out_size, "%s-%u", crash_names_of_kinds[rule->kind], rule->index);
    return out;
}

void
media_crash(struct media *media, const struct crash_rule *rule, bool fresh)
{
    if (crash_is_kill(rule))
        crash_process(media, rule);
    else
        crash_machine(media, rule);
    if (!fresh) return;
    media->events = 1;
    for (unsigned i = 0; i < media->effect_count; i++) {
        media->effects[i].born = 0;
        media->effects[i].complete = 0;
    }
}

/* The caches outlive the process: what completed stays pending, the rest is decided now. */
static void
crash_process(struct media *media, const struct crash_rule *rule)
{
    struct random_source random = { .state = rule->seed };
    unsigned index = 0;
    while (index < media->effect_count) {
        struct media_effect *effect = &media->effects[index];
        if (effect->complete != MEDIA_NEVER) {
            index++;
            continue;
        }
        unsigned sectors = effect->length / MEDIA_SECTOR;
        unsigned kept = rule->kind == CRASH_KILL_ALL ? sectors : 0;
        if (rule->kind == CRASH_KILL_RANDOM)
            kept = random_below(&random, 2) == 0 ? sectors : random_below(&random, sectors);
        if (kept == 0) {
            effect_free(media, index);
            continue;
        }
        effect->complete = media->events;
        for (unsigned i = kept; i < sectors; i++)
            effect_lose_sector(effect, i);
        index++;
    }
}

static bool
crash_keeps(
    const struct crash_rule *rule,
    struct random_source *random,
    const struct media_effect *effect,
    unsigned index)
{
    switch (rule->kind) {
    case CRASH_NONE:
        return false;
    case CRASH_META:
        return effect->kind != EFFECT_WRITE;
    case CRASH_DATA:
        return effect->kind == EFFECT_WRITE;
    case CRASH_DROP:
        return index != rule->index;
    case CRASH_KEEP:
        return index == rule->index;
    case CRASH_RANDOM:
        return random_below(random, 2) == 0;
    case CRASH_SECTORS:
        return effect->kind == EFFECT_WRITE || random_below(random, 4) > 0;
    default:
        return true;
    }
}

/* Index of the last pending write, or of nothing. */
static unsigned
last_write(const struct media *media)
{
    unsigned index = media->effect_count;
    while (index > 0 && media->effects[index - 1].kind != EFFECT_WRITE)
        index--;
    return index == 0 ? media->effect_count : index - 1;
}

static void
crash_machine(struct media *media, const struct crash_rule *rule)
{
    struct random_source random = { .state = rule->seed };
    unsigned torn = rule->kind == CRASH_TORN ? last_write(media) : media->effect_count;
    bool *keeps = must(calloc(media->effect_count + 1, sizeof(*keeps)));
    for (unsigned i = 0; i < media->effect_count; i++) {
        struct media_effect *effect = &media->effects[i];
        keeps[i] = crash_keeps(rule, &random, effect, i);
        if (effect->kind != EFFECT_WRITE) continue;
        for (unsigned j = 0; j < effect->length / MEDIA_SECTOR; j++) {
            bool lost = i == torn && j >= rule->index;
            if (rule->kind == CRASH_SECTORS) lost = random_below(&random, 2) == 0;
            if (lost) effect_lose_sector(effect, j);
        }
    }
    /* Sizes first: they decide which contents can be reached. */
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < media->effect_count; i++)
            if (keeps[i] && (media->effects[i].kind == EFFECT_WRITE) == (pass == 1))
                effect_store(media, &media->effects[i]);
    }
    free(keeps);
    while (media->effect_count > 0)
        effect_free(media, media->effect_count - 1);
    crash_names(media);
}

/* A file is lost with the name of its directory. */
static void
crash_names(struct media *media)
{
    for (unsigned i = 0; i < media->name_count; i++) {
        struct media_name *name = &media->names[i];
        if (strcmp(name->path, "/") == 0) continue;
        bool found = false;
        for (unsigned j = 0; j < media->name_count && !found; j++)
            found = media->names[j].target == MEDIA_DIRECTORY &&
                    media_is_in(name->path, media->names[j].path);
        /* Parents come before their children in the table, so this reaches grandchildren. */
        if (!found) name->target = MEDIA_NOTHING;
    }
}

/* --- Rules. */

struct rule_counts {
    unsigned kill;
    unsigned power;
    unsigned effects;
    unsigned random;
    unsigned torn;
};

static struct rule_counts
rule_counts(const struct media *media)
{
    bool under_way = false;
    for (unsigned i = 0; i < media->effect_count; i++)
        under_way = under_way || media->effects[i].complete == MEDIA_NEVER;
    struct rule_counts counts = { .kill = under_way ? 4 : 1, .power = 1 };
    unsigned last = last_write(media);
    if (media->effect_count > 0) {
        counts.power = 4;
        counts.random = MEDIA_RANDOM_SUBSETS;
    }
    if (media->effect_count > 1) counts.effects = media->effect_count;
    /* Zeros ahead of the tail are long, and one torn in the middle is like another. */
    if (last < media->effect_count)
        counts.torn =
            media->effects[last].zeros ? 1 : media->effects[last].length / MEDIA_SECTOR - 1;
    return counts;
}

unsigned
media_rule_count(const struct media *media)
{
    struct rule_counts counts = rule_counts(media);
    return counts.kill + counts.power + 2 * counts.effects + counts.random + counts.torn;
}

struct crash_rule
media_rule(const struct media *media, unsigned number, uint64_t seed)
{
    static const enum crash_kind kills[] = {
        CRASH_KILL_NONE,
        CRASH_KILL_ALL,
        CRASH_KILL_RANDOM,
        CRASH_KILL_RANDOM,
    };
    static const enum crash_kind powers[] = { CRASH_NONE, CRASH_ALL, CRASH_META, CRASH_DATA };
    struct rule_counts counts = rule_counts(media);
    struct crash_rule rule = { .index = number, .seed = seed };
    if (rule.index < counts.kill) {
        rule.kind = kills[rule.index];
        return rule;
    }
    rule.index -= counts.kill;
    if (rule.index < counts.power) {
        rule.kind = powers[rule.index];
        return rule;
    }
    rule.index -= counts.power;
    if (rule.index < 2 * counts.effects) {
        rule.kind = rule.index < counts.effects ? CRASH_DROP : CRASH_KEEP;
        rule.index %= counts.effects;
        return rule;
    }
    rule.index -= 2 * counts.effects;
    if (rule.index < counts.random) {
        rule.kind = rule.index % 2 == 0 ? CRASH_RANDOM : CRASH_SECTORS;
        return rule;
    }
    rule.index -= counts.random;
    Q_ASSERT(rule.index < counts.torn);
    const struct media_effect *torn = &media->effects[last_write(media)];
    rule.kind = CRASH_TORN;
    rule.index = torn->zeros ? torn->length / MEDIA_SECTOR / 2 : rule.index + 1;
    return rule;
}

/* --- What a program sees. */

uint8_t *
media_read(const struct media *media, unsigned file, uint64_t *ret_size)
{
    struct media copy = { .files = &(struct media_file){ 0 }, .file_count = 1 };
    file_resize(copy.files, media->files[file].size);
    if (copy.files->size > 0) memcpy(copy.files->data, media->files[file].data, copy.files->size);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < media->effect_count; i++) {
            struct media_effect effect = media->effects[i];
            if (effect.kind == EFFECT_NAME || effect.file != file ||
                effect.complete == MEDIA_NEVER || (effect.kind == EFFECT_WRITE) != (pass == 1))
                continue;
            effect.file = 0;
            effect_store(&copy, &effect);
        }
    }
    *ret_size = copy.files->size;
    return copy.files->data;
}

int
media_target(const struct media *media, unsigned name)
{
    int target = media->names[name].target;
    for (unsigned i = 0; i < media->effect_count; i++)
        if (media->effects[i].kind == EFFECT_NAME && media->effects[i].name == name)
            target = media->effects[i].target;
    return target;
}
