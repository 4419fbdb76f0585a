/*
 * opts.c: parse a command line by a table, and print the table as help.
 */
#include <qbase/opts.h>

#include <inttypes.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/text.h>

enum {
    OPTIONS_MAX = 128,
    LABEL_MAX = 64
};

/* Where the parser stands. */
struct parser {
    const struct q_opt *options;
    size_t option_count;
    int argc;
    char *const *argv;
    int at; /* next word */
    struct q_opts_result *result;
};

static enum q_err parse_word(struct parser *parser, const char *word);
static enum q_err parse_long(struct parser *parser, const char *word);
static enum q_err parse_short(struct parser *parser, const char *word);
static enum q_err parse_positional(struct parser *parser, const char *word);
static bool is_help(const struct parser *parser, const char *word);
static const struct q_opt *find_long(const struct parser *parser, struct q_bytes name);
static const struct q_opt *find_short(const struct parser *parser, char letter);
static enum q_err take(
    struct parser *parser, const struct q_opt *option, const char *label, const char *attached);
static enum q_err store(
    struct parser *parser, const struct q_opt *option, const char *label, const char *text);
static enum q_err check_bounds(
    struct parser *parser,
    const struct q_opt *option,
    const char *label,
    const char *text,
    uint64_t value);
static const char *bound_text(const struct q_opt *option, uint64_t bound);
static const char *nearest_name(const struct parser *parser, const char *name);
static enum q_err refuse(struct parser *parser, const char *format, ...) Q_PRINTF(2, 3);
static int help_label(const struct q_opt *option, char *out, size_t out_size);

enum q_err
q_opts_parse(
    const struct q_opt *options,
    size_t option_count,
    int argc,
    char *const *argv,
    struct q_opts_result *ret_result)
{
    Q_ASSERT(option_count < OPTIONS_MAX);

    *ret_result = (struct q_opts_result){ 0 };
    struct parser parser = {
        .options = options,
        .option_count = option_count,
        .argc = argc,
        .argv = argv,
        .at = 1,
        .result = ret_result,
    };
    /* The first mistake is the one told, but the search for --help goes on: whoever asks for help
     * gets it, whatever else stands there. */
    enum q_err err = Q_OK;
    bool only_args = false;
    while (parser.at < argc) {
        const char *word = argv[parser.at++];
        if (!only_args && strcmp(word, "--") == 0) {
            only_args = true;
        } else if (!only_args && is_help(&parser, word)) {
            ret_result->help = true;
            ret_result->error[0] = '\0';
            return Q_OK;
        } else {
            enum q_err word_err =
                only_args ? parse_positional(&parser, word) : parse_word(&parser, word);
            if (err == Q_OK) err = word_err;
        }
    }
    return err;
}

static enum q_err
parse_word(struct parser *parser, const char *word)
{
    /* A lone "-" is a name, by custom that of standard input. */
    if (word[0] != '-' || word[1] == '\0') return parse_positional(parser, word);
    return word[1] == '-' ? parse_long(parser, word) : parse_short(parser, word);
}

static enum q_err
parse_long(struct parser *parser, const char *word)
{
    const char *name = word + 2;
    const char *equals = strchrnul(name, '=');
    size_t name_length = (size_t)(equals - name);
    const struct q_opt *option = find_long(parser, q_bytes_from(name, name_length));
    if (option == NULL) {
        char asked[LABEL_MAX];
        (void)snprintf(asked, sizeof(asked), "%.*s", (int)q_min_u64(name_length, LABEL_MAX), name);
        const char *near = nearest_name(parser, asked);
        if (near == NULL) return refuse(parser, "unknown option --%s; see --help", asked);
        return refuse(parser, "unknown option --%s; did you mean --%s?", asked, near);
    }

    char label[LABEL_MAX];
    (void)snprintf(label, sizeof(label), "--%s", option->name);
    return take(parser, option, label, *equals == '=' ? equals + 1 : NULL);
}

static enum q_err
parse_short(struct parser *parser, const char *word)
{
    const struct q_opt *option = find_short(parser, word[1]);
    if (option == NULL) {
        /* "-port-base 1": one dash too few is a likelier slip than an unknown letter. */
        const char *near = word[2] != '\0' ? nearest_name(parser, word + 1) : NULL;
        if (near == NULL) return refuse(parser, "unknown option -%c; see --help", word[1]);
        return refuse(parser, "unknown option %s; did you mean --%s?", word, near);
    }

    char label[LABEL_MAX];
    (void)snprintf(label, sizeof(label), "-%c", word[1]);
    return take(parser, option, label, word[2] != '\0' ? word + 2 : NULL);
}

static enum q_err
parse_positional(struct parser *parser, const char *word)
{
    struct q_opts_result *result = parser->result;
    if (result->arg_count == Q_OPT_ARGS_MAX)
        return refuse(parser, "more than %d arguments", Q_OPT_ARGS_MAX);
    result->args[result->arg_count++] = word;
    return Q_OK;
}

static bool
is_help(const struct parser *parser, const char *word)
{
    if (strcmp(word, "--help") == 0) return true;
    return strcmp(word, "-h") == 0 && find_short(parser, 'h') == NULL;
}

static const struct q_opt *
find_long(const struct parser *parser, struct q_bytes name)
{
    for (size_t i = 0; i < parser->option_count; i++) {
        if (q_bytes_equal(q_bytes_from_text(parser->options[i].name), name))
            return &parser->options[i];
    }
    return NULL;
}

static const struct q_opt *
find_short(const struct parser *parser, char letter)
{
    for (size_t i = 0; i < parser->option_count; i++) {
        if (parser->options[i].letter == letter) return &parser->options[i];
    }
    return NULL;
}

/* `label`: the option as it was written. `attached`: the value that came in the same word. */
static enum q_err
take(struct parser *parser, const struct q_opt *option, const char *label, const char *attached)
{
    if (option->kind == Q_OPT_FLAG) {
        if (attached != NULL)
            return refuse(parser, "%s takes no value, but got '%s'", label, attached);
        *(bool *)option->value = true;
        return Q_OK;
    }

    if (attached != NULL) return store(parser, option, label, attached);
    if (parser->at == parser->argc) {
        return refuse(
            parser, "%s needs a value: %s %s", label, label,
            option->param != NULL ? option->param : "VALUE");
    }
    return store(parser, option, label, parser->argv[parser->at++]);
}

static enum q_err
store(struct parser *parser, const struct q_opt *option, const char *label, const char *text)
{
    uint64_t value = 0;
    switch (option->kind) {
    case Q_OPT_TEXT:
        *(const char **)option->value = text;
        return Q_OK;
    case Q_OPT_LIST: {
        struct q_opt_list *list = option->value;
        if (list->count == Q_OPT_LIST_MAX)
            return refuse(parser, "%s may be given %d times at most", label, Q_OPT_LIST_MAX);
        list->values[list->count++] = text;
        return Q_OK;
    }
    case Q_OPT_NUMBER:
        if (q_text_parse_u64(text, 0, UINT64_MAX, &value) != Q_OK)
            return refuse(parser, "%s: '%s' is not a number", label, text);
        break;
    case Q_OPT_SIZE:
        if (q_text_parse_size(text, &value) != Q_OK)
            return refuse(parser, "%s: '%s' is not a size like 4096, 64KiB or 1GB", label, text);
        break;
    case Q_OPT_DURATION:
        if (q_text_parse_duration(text, &value) != Q_OK)
            return refuse(parser, "%s: '%s' is not a duration like 250ms, 10s or 5m", label, text);
        break;
    case Q_OPT_FLAG:
        Q_ASSERT(option->kind != Q_OPT_FLAG);
        break;
    }

    Q_TRY(check_bounds(parser, option, label, text, value));
    *(uint64_t *)option->value = value;
    return Q_OK;
}

static enum q_err
check_bounds(
    struct parser *parser,
    const struct q_opt *option,
    const char *label,
    const char *text,
    uint64_t value)
{
    bool low = value < option->min;
    bool high = option->max != 0 && value > option->max;
    if (!low && !high) return Q_OK;
    if (option->max == 0) {
        return refuse(
            parser, "%s: %s is less than %s", label, text, bound_text(option, option->min));
    }
    return refuse(
        parser, "%s: %s is not between %s and %s", label, text, bound_text(option, option->min),
        bound_text(option, option->max));
}

static const char *
bound_text(const struct q_opt *option, uint64_t bound)
{
    char size[32];
    switch (option->kind) {
    case Q_OPT_SIZE:
        return q_text("%s", q_text_format_size(bound, size, sizeof(size)));
    case Q_OPT_DURATION:
        if (bound % UINT64_C(1000000000) == 0) return q_text("%" PRIu64 "s", bound / 1000000000);
        return q_text("%" PRIu64 "ms", bound / 1000000);
    default:
        return q_text("%" PRIu64, bound);
    }
}

static const char *
nearest_name(const struct parser *parser, const char *name)
{
    const char *names[OPTIONS_MAX] = { "help" };
    for (size_t i = 0; i < parser->option_count; i++)
        names[i + 1] = parser->options[i].name;
    return q_text_nearest(name, names, parser->option_count + 1);
}

static enum q_err
refuse(struct parser *parser, const char *format, ...)
{
    if (parser->result->error[0] != '\0') return Q_INVALID;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(parser->result->error, sizeof(parser->result->error), format, args);
    va_end(args);
    return Q_INVALID;
}

void
q_opts_print_help(FILE *out, const struct q_opt *options, size_t option_count)
{
    char label[LABEL_MAX];
    int width = help_label(NULL, label, sizeof(label));
    for (size_t i = 0; i < option_count; i++) {
        int length = help_label(&options[i], label, sizeof(label));
        if (length > width) width = length;
    }

    for (size_t i = 0; i < option_count; i++) {
        (void)help_label(&options[i], label, sizeof(label));
        (void)fprintf(out, "  %-*s  %s\n", width, label, options[i].help);
    }
    (void)help_label(NULL, label, sizeof(label));
    (void)fprintf(out, "  %-*s  %s\n", width, label, "print this help");
}

/* The left column of a line, NULL: of --help. Returns its length. */
static int
help_label(const struct q_opt *option, char *out, size_t out_size)
{
    static const struct q_opt help = { .name = "help", .letter = 'h', .kind = Q_OPT_FLAG };
    if (option == NULL) option = &help;

    char letter[8] = "    ";
    if (option->letter != 0) (void)snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    bool has_param = option->kind != Q_OPT_FLAG;
    const char *param = option->param != NULL ? option->param : "VALUE";
    return snprintf(
        out, out_size, "%s--%s%s%s", letter, option->name, has_param ? " " : "",
        has_param ? param : "");
}
