/* The script: lines of fields with tabs between them, as wine_double.py writes them. README.md lists the words. */
#include "double.h"

#include <stdlib.h>
#include <string.h>

int crew, modern, keep_calls = 1;
char *child_path;
rule no_rule = {.times = -1, .repeat = 1};

static rule *rules, **rules_end = &rules;
static struct guid {
    char *name, *value;
    struct guid *next;
} *guids;

static DWORD number_of(const char *value)
{
    return value[0] == '-' ? (DWORD)strtol(value, NULL, 0) : (DWORD)strtoul(value, NULL, 0);
}

static int pipe_bit(const char *name)
{
    return !strcmp(name, "stdin") ? 1 : !strcmp(name, "stdout") ? 2 : 4;
}

static void rule_word(rule *r, char **field)
{
    const char *word = field[0];
    size_t size;
    char *value = copy_of(unescaped(field[1], &size));
    if (!strcmp(word, "match"))
        r->match = value;
    else if (!strcmp(word, "system"))
        r->system = value;
    else if (!strcmp(word, "times"))
        r->times = (int)number_of(value);
    else if (!strcmp(word, "hr"))
        r->has_hr = 1, r->hr = (HRESULT)number_of(value);
    else if (!strcmp(word, "result"))
        r->has_result = 1, r->result = value;
    else if (!strcmp(word, "properties"))
        r->has_properties = 1, r->properties = value;
    else if (!strcmp(word, "no properties"))
        r->has_properties = 1;
    else if (!strcmp(word, "no notifications"))
        r->has_notes = 1;
    else if (!strcmp(word, "notify")) {
        note **last = &r->notes, *made = grown(NULL, sizeof *made);
        while (*last)
            last = &(*last)->next;
        *made = (note){number_of(value), (HRESULT)number_of(field[2]), (int)number_of(field[3])};
        made->data = field[4] ? copy_of(unescaped(field[4], NULL)) : NULL;
        *last = made;
        r->has_notes = 1;
    } else if (!strcmp(word, "kill"))
        r->has_kill = 1, r->kill_code = number_of(value), r->kill_after = (int)number_of(field[2]);
    else if (!strcmp(word, "delay"))
        r->delay = (int)number_of(value);
    else if (!strcmp(word, "pid"))
        r->has_pid = 1, r->pid = number_of(value);
    else if (!strcmp(word, "stdout") || !strcmp(word, "stderr")) {
        int which = word[3] == 'e';
        r->out[which] = grown(NULL, size + 1);
        memcpy(r->out[which], field[1], size);
        r->out_size[which] = size;
    } else if (!strcmp(word, "repeat"))
        r->repeat = (int)number_of(value);
    else if (!strcmp(word, "close_output"))
        r->close_output = 1;
    else if (!strcmp(word, "exit") || !strcmp(word, "exit on close")) {
        r->has_exit = 1;
        r->exit_on_close = !strcmp(word, "exit on close");
        r->exit_code = number_of(value);
        r->exit_after = (int)number_of(field[2]);
        r->exit_status = (HRESULT)number_of(field[3]);
    } else if (!strcmp(word, "echo"))
        r->echo = 1;
    else if (!strcmp(word, "withhold"))
        r->withhold |= pipe_bit(value);
    else if (!strcmp(word, "invalid"))
        r->invalid |= pipe_bit(value);
    else if (!strcmp(word, "code"))
        r->has_code = 1, r->code = number_of(value);
    else if (!strcmp(word, "after"))
        r->has_after = 1, r->after = (int)number_of(value);
    else
        failed("the script says `%s`, which means nothing", word);
}

void read_script(char *script)
{
    rule *current = NULL;
    for (char *line = script; line && *line;) {
        char *end = strchr(line, '\n');
        if (end) {
            *end = 0;
            if (end > line && end[-1] == '\r') /* written by an editor of Windows */
                end[-1] = 0;
        }
        static char nothing[1];
        char *field[6] = {nothing, nothing, nothing, nothing, NULL, NULL};
        int count = 0;
        for (char *at = line; at && count < 6; count++) {
            field[count] = at;
            at = strchr(at, '\t');
            if (at)
                *at++ = 0;
        }
        if (!strcmp(field[0], "crew"))
            crew = 1;
        else if (!strcmp(field[0], "modern"))
            modern = 1;
        else if (!strcmp(field[0], "forget calls"))
            keep_calls = 0;
        else if (!strcmp(field[0], "path")) {
            free(child_path);
            child_path = copy_of(unescaped(field[1], NULL));
        } else if (!strcmp(field[0], "guid")) {
            struct guid *made = grown(NULL, sizeof *made);
            made->name = copy_of(unescaped(field[1], NULL));
            made->value = copy_of(unescaped(field[2], NULL));
            made->next = guids;
            guids = made;
        } else if (!strcmp(field[0], "rule")) {
            current = grown(NULL, sizeof *current);
            *current = no_rule;
            current->function = copy_of(field[1]);
            *rules_end = current;
            rules_end = &current->next;
        } else if (*field[0] && current)
            rule_word(current, field);
        line = end ? end + 1 : NULL;
    }
}

/* Scripts are small, and their rules may still be meant by what is to happen later: they are never freed. */
void forget_rules(void)
{
    rules = NULL;
    rules_end = &rules;
}

void forget_script(void)
{
    forget_rules();
    guids = NULL;
    crew = modern = 0;
    keep_calls = 1;
}

rule *rule_for(const char *function, const char *value, const char *system)
{
    for (rule *r = rules; r; r = r->next) {
        if (strcmp(r->function, function) || (r->match && !strstr(value ? value : "", r->match)))
            continue;
        if ((r->system && (!system || strcmp(r->system, system))) || (r->times >= 0 && r->used >= r->times))
            continue;
        r->used++;
        return r;
    }
    return NULL;
}

const char *scripted_guid(const char *name)
{
    for (struct guid *g = guids; g; g = g->next)
        if (!strcmp(g->name, name))
            return g->value;
    return NULL;
}
