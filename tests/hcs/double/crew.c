/* Real children: programs of this Windows as the processes of systems, each system a job. */
#include "double.h"

#include <psapi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

LONG WINAPI NtSuspendProcess(HANDLE process);
LONG WINAPI NtResumeProcess(HANDLE process);

static HRESULT from_win32(DWORD code)
{
    return (HRESULT)(0x80070000 | code);
}

/* The first word of a command line, as CommandLineToArgvW takes it. */
static WCHAR *program_of(const WCHAR *line, const WCHAR **rest)
{
    WCHAR *name = grown(NULL, (wcslen(line) + 1) * sizeof(WCHAR)), *to = name;
    int quoted = 0;
    for (; *line && (quoted || (*line != ' ' && *line != '\t')); line++) {
        if (*line == '"')
            quoted = !quoted;
        else
            *to++ = *line;
    }
    *to = 0;
    *rest = line;
    return name;
}

/* Paths of Unix, which the contract's tests have: Wine's drive Z: is their root. */
static WCHAR *with_drive(WCHAR *path)
{
    if (path[0] != '/')
        return path;
    WCHAR *made = grown(NULL, (wcslen(path) + 3) * sizeof(WCHAR));
    wcscpy(made, L"Z:");
    wcscat(made, path);
    free(path);
    for (WCHAR *at = made; *at; at++)
        if (*at == '/')
            *at = '\\';
    return made;
}

static int compare_names(const void *a, const void *b)
{
    return _wcsicmp(*(WCHAR *const *)a, *(WCHAR *const *)b);
}

/* What is ours, with what the document says over it: a block that is sorted, as Windows wants it. */
static WCHAR *environment(const char *document)
{
    size_t count = 0, room = 64, size = 1;
    WCHAR **entries = grown(NULL, room * sizeof *entries), *block = GetEnvironmentStringsW();
    for (WCHAR *at = block; *at; at += wcslen(at) + 1) {
        if (count == room)
            entries = grown(entries, (room *= 2) * sizeof *entries);
        entries[count++] = _wcsdup(at);
    }
    FreeEnvironmentStringsW(block);
    const char *place = json_member(document, "Environment"), *value;
    char *name;
    while (place && (place = json_next(place, &name, &value))) {
        text pair = {0};
        char *plain = json_string(value);
        put(&pair, "%s=%s", name, plain ? plain : "");
        WCHAR *wide = utf16(pair.at);
        size_t length = wcschr(wide, '=') - wide + 1, i = 0;
        while (i < count && _wcsnicmp(entries[i], wide, length))
            i++;
        if (i < count)
            free(entries[i]);
        else if (count == room)
            entries = grown(entries, (room *= 2) * sizeof *entries);
        entries[i] = wide;
        count += i == count;
        free(pair.at);
        free(plain);
        free(name);
    }
    qsort(entries, count, sizeof *entries, compare_names);
    for (size_t i = 0; i < count; i++)
        size += wcslen(entries[i]) + 1;
    WCHAR *made = grown(NULL, (size + 1) * sizeof(WCHAR)), *to = made;
    for (size_t i = 0; i < count; i++) {
        wcscpy(to, entries[i]);
        to += wcslen(to) + 1;
        free(entries[i]);
    }
    to[0] = to[1 - (count > 0)] = 0;
    free(entries);
    return made;
}

static DWORD WINAPI watch(void *subject)
{
    process *p = subject;
    DWORD code = 0;
    WaitForSingleObject(p->child, INFINITE);
    GetExitCodeProcess(p->child, &code);
    EnterCriticalSection(&lock);
    process_exit(p, p->killed ? KILLED : p->interrupted ? CONTROL_C : code, 0, 0);
    if (p->system->ending && !p->system->processes)
        crew_verb(NULL, p->system);
    CloseHandle(p->child);
    p->child = NULL;
    drop_process(p);
    LeaveCriticalSection(&lock);
    return 0;
}

/* The lock is held: handles are inheritable here, and no other child may take them along. */
HRESULT start_child(process *p, HANDLE inside[3])
{
    char *line8 = json_string(json_member(p->document, "CommandLine"));
    char *directory8 = json_string(json_member(p->document, "WorkingDirectory"));
    WCHAR *line = utf16(line8 ? line8 : ""), *directory = utf16(directory8), *extra = utf16(child_path);
    const WCHAR *rest;
    WCHAR *name = with_drive(program_of(line, &rest)), found[MAX_PATH] = L"";
    if (directory && *directory)
        directory = with_drive(directory);
    HRESULT hr = 0;
    if (!(extra && SearchPathW(extra, name, L".exe", MAX_PATH, found, NULL)) &&
        !SearchPathW(NULL, name, L".exe", MAX_PATH, found, NULL) && !SearchPathW(NULL, name, NULL, MAX_PATH, found, NULL))
        hr = E_NO_FILE;
    if (!hr) {
        text size = {0};
        const char *sizes = json_member(p->document, "ConsoleSize");
        unsigned height = 0, width = 0;
        if (sizes)
            sscanf(sizes, "[%u,%u]", &height, &width);
        WCHAR *block = environment(p->document);
        STARTUPINFOW start = {sizeof start};
        PROCESS_INFORMATION made = {0};
        start.dwFlags = STARTF_USESTDHANDLES | STARTF_USECOUNTCHARS;
        start.dwXCountChars = width;
        start.dwYCountChars = height;
        start.hStdInput = inside[0];
        start.hStdOutput = inside[1];
        start.hStdError = json_true(json_member(p->document, "EmulateConsole")) ? inside[1] : inside[2];
        DWORD flags = CREATE_UNICODE_ENVIRONMENT | CREATE_NO_WINDOW | CREATE_SUSPENDED;
        if (!CreateProcessW(found, line, NULL, NULL, TRUE, flags, block, directory && *directory ? directory : NULL, &start, &made)) {
            hr = from_win32(GetLastError());
        } else {
            if (!p->system->job)
                p->system->job = CreateJobObjectW(NULL, NULL);
            AssignProcessToJobObject(p->system->job, made.hProcess);
            FILETIME ignored;
            GetProcessTimes(made.hProcess, &p->created, &ignored, &ignored, &ignored);
            p->child = made.hProcess;
            p->pid = made.dwProcessId;
            const WCHAR *slash = wcsrchr(found, '\\');
            p->name = utf8(slash ? slash + 1 : found);
            hold_process(p);
            CloseHandle(CreateThread(NULL, 0, watch, p, 0, NULL));
            ResumeThread(made.hThread);
            CloseHandle(made.hThread);
        }
        free(block);
        free(size.at);
    }
    for (int i = 0; i < 3; i++)
        if (inside[i])
            CloseHandle(inside[i]);
    free(line8);
    free(directory8);
    free(line);
    free(directory);
    free(extra);
    free(name);
    return hr;
}

static void exited(void *subject, DWORD type, HRESULT status, const char *data)
{
    system_ *s = subject;
    notify_system(s, type, status, data);
    drop_system(s);
}

static void later(system_ *s, DWORD type)
{
    hold_system(s);
    after(1, exited, s, type, 0, NULL);
}

/* It has ended: told once nothing runs in it any more. */
static void end_if_empty(system_ *s)
{
    s->ending = 1;
    if (!s->processes && strcmp(s->state, "Stopped")) {
        s->state = "Stopped";
        if (s->job)
            TerminateJobObject(s->job, KILLED); /* what its processes have left running */
        later(s, SYSTEM_EXITED);
    }
}

void crew_control(process *p, const char *word)
{
    WCHAR name[80];
    swprintf(name, 80, L"Local\\vmcompute-double-control-%lu", p->pid);
    HANDLE event = OpenEventW(EVENT_MODIFY_STATE, FALSE, name);
    if (event) { /* it handles control events */
        SetEvent(event);
        CloseHandle(event);
        return;
    }
    p->interrupted = 1;
    TerminateProcess(p->child, CONTROL_C);
}

/* What a pending verb brings about; NULL: the last process of an ending system has gone. */
void crew_verb(const char *function, system_ *s)
{
    if (!function) {
        end_if_empty(s);
    } else if (!strcmp(function, "HcsStartComputeSystem")) {
        later(s, 0x3);
    } else if (!strcmp(function, "HcsShutdownComputeSystem")) {
        for (process *p = s->processes; p; p = p->next)
            crew_control(p, "CtrlShutdown");
        end_if_empty(s);
    } else if (!strcmp(function, "HcsTerminateComputeSystem")) {
        crew_terminate(s);
    } else if (!strcmp(function, "HcsPauseComputeSystem")) {
        for (process *p = s->processes; p; p = p->next)
            NtSuspendProcess(p->child);
        later(s, 0x4);
    } else if (!strcmp(function, "HcsResumeComputeSystem")) {
        for (process *p = s->processes; p; p = p->next)
            NtResumeProcess(p->child);
        later(s, 0x5);
    }
}

void crew_terminate(system_ *s)
{
    for (process *p = s->processes; p; p = p->next)
        p->killed = 1;
    if (s->job)
        TerminateJobObject(s->job, KILLED);
    end_if_empty(s);
}

void crew_kill(process *p)
{
    p->killed = 1;
    TerminateProcess(p->child, KILLED);
}

static void put_time(text *out, const FILETIME *time)
{
    SYSTEMTIME t;
    FileTimeToSystemTime(time, &t);
    ULONGLONG whole = (ULONGLONG)time->dwHighDateTime << 32 | time->dwLowDateTime;
    put(out, "\"%04d-%02d-%02dT%02d:%02d:%02d.%07uZ\"", t.wYear, t.wMonth, t.wDay, t.wHour, t.wMinute, t.wSecond, (unsigned)(whole % 10000000));
}

static ULONGLONG ticks(const FILETIME *time)
{
    return (ULONGLONG)time->dwHighDateTime << 32 | time->dwLowDateTime;
}

void crew_properties(system_ *s, const char *query, text *out)
{
    FILETIME now, created, ended, kernel, user;
    ULONGLONG all_kernel = 0, all_user = 0, all_memory = 0;
    text list = {0};
    put_bytes(&list, "", 0);
    GetSystemTimeAsFileTime(&now);
    for (process *p = s->processes; p; p = p->next) {
        PROCESS_MEMORY_COUNTERS memory = {sizeof memory};
        memset(&kernel, 0, sizeof kernel), memset(&user, 0, sizeof user);
        GetProcessTimes(p->child, &created, &ended, &kernel, &user);
        GetProcessMemoryInfo(p->child, &memory, sizeof memory);
        all_kernel += ticks(&kernel), all_user += ticks(&user), all_memory += memory.WorkingSetSize;
        put(&list, "%s{\"CreateTimestamp\":", list.size ? "," : "");
        put_time(&list, &p->created);
        put(&list, ",\"ImageName\":\"%s\",\"KernelTime100ns\":%llu,\"UserTime100ns\":%llu,\"MemoryWorkingSetPrivateBytes\":%llu,\"ProcessId\":%lu}",
            p->name, ticks(&kernel), ticks(&user), (ULONGLONG)memory.WorkingSetSize, p->pid);
    }
    put(out, ",\"State\":\"%s\"", s->state);
    if (strstr(query, "ProcessList"))
        put(out, ",\"ProcessList\":[%s]", list.at);
    if (strstr(query, "Statistics")) {
        put(out, ",\"Statistics\":{\"Timestamp\":");
        put_time(out, &now);
        put(out, ",\"Memory\":{\"MemoryUsagePrivateWorkingSetBytes\":%llu},\"Processor\":{\"TotalRuntime100ns\":%llu,\"RuntimeUser100ns\":%llu,\"RuntimeKernel100ns\":%llu}}",
            all_memory, all_kernel + all_user, all_user, all_kernel);
    }
    free(list.at);
}
