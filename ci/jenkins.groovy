// Checks a Jenkinsfile without a Jenkins: groovy ci/jenkins.groovy FILE
//
// Debian's Groovy is the version that Jenkins has (2.4). The pipeline is run strictly: a section, option or step that
// the tables below don't know, or in a place where it doesn't belong, is an error. Shell is checked by bash and not
// executed; what it would answer is made up, so that the way from exit codes to the build's result is tried: see
// `cases`. What only Jenkins knows stays unchecked: plugins, agents, credentials, the sandbox.
import org.codehaus.groovy.control.CompilerConfiguration

// Sections of a declarative pipeline and what may be in them.
@groovy.transform.Field
final Map<String, Set> SECTIONS = [
    pipeline: ['agent', 'triggers', 'options', 'environment', 'parameters', 'tools', 'stages', 'post'],
    agent: ['label', 'docker', 'node'], triggers: ['cron'],
    options: ['disableConcurrentBuilds', 'timeout', 'buildDiscarder', 'logRotator', 'timestamps', 'retry'],
    environment: [], stages: ['stage'],
    stage: ['agent', 'options', 'environment', 'when', 'steps', 'stages', 'parallel', 'post'],
    when: ['expression', 'branch', 'not', 'allOf', 'anyOf'],
    post: ['always', 'changed', 'fixed', 'regression', 'aborted', 'failure', 'success', 'unstable', 'cleanup'],
].collectEntries { name, inside -> [name, inside as Set] }

@groovy.transform.Field
final Map<String, List> REQUIRED = [pipeline: ['agent', 'stages'], stages: ['stage'], post: []]

// Steps, and the named arguments that they take.
@groovy.transform.Field
final Map<String, Set> STEPS = [
    sh: ['script', 'returnStatus', 'returnStdout', 'label'], echo: ['message'], error: ['message'], script: [],
    unstable: ['message'], timeout: ['time', 'unit'], withEnv: [], stage: [], dir: [], retry: [],
    catchError: ['buildResult', 'stageResult', 'catchInterruptions', 'message'],
    junit: ['testResults', 'allowEmptyResults', 'skipMarkingBuildUnstable'],
    archiveArtifacts: ['artifacts', 'allowEmptyArchive', 'fingerprint'],
].collectEntries { name, arguments -> [name, arguments as Set] }

class Mistake extends RuntimeException { Mistake(String text) { super(text) } }
class StepFailed extends RuntimeException { }

class Section {
    Build build
    String name
    Set inside
    List seen = []
    def env = new HashMap(System.getenv())

    def methodMissing(String called, Object arguments) {
        def list = arguments as List
        if (inside == null) return build.step(called, list)
        if (!inside.contains(called)) throw new Mistake("'$called' does not belong into '$name'")
        seen.add(called)
        def body = list.empty ? null : list[list.size() - 1]
        if (body instanceof Closure && called != 'expression') {
            build.section(name == 'post' ? 'steps' : called, body)
        }
        return called
    }

    void setProperty(String variable, Object value) {
        if (variable in ['build', 'name', 'inside']) { this.@"$variable" = value; return }
        if (name != 'environment') throw new Mistake("an assignment in '$name'")
    }
}

class Build {
    static final ORDER = ['SUCCESS', 'UNSTABLE', 'FAILURE']
    Map sections, required, steps
    Script file
    Queue<Integer> codes
    String stdout, result = 'SUCCESS'
    List<String> commands = []

    void worsen(String to) { if (ORDER.indexOf(to) > ORDER.indexOf(result)) result = to }

    /** A section: what is in it is checked, steps are carried out. */
    void section(String name, Closure body) {
        def section = new Section(build: this, name: name, inside: name == 'steps' ? null : sections[name])
        body.delegate = section
        body.resolveStrategy = Closure.DELEGATE_ONLY
        body.call()
        for (needed in (required[name] ?: [])) {
            if (!section.seen.contains(needed)) throw new Mistake("'$name' has no '$needed'")
        }
        if (name == 'stage' && section.seen.count { it == 'steps' || it == 'stages' || it == 'parallel' } != 1) {
            throw new Mistake("a stage has 'steps', 'stages' or 'parallel', and one of them only")
        }
    }

    def step(String name, List arguments) {
        // Steps may also be the file's own methods.
        if (file.metaClass.respondsTo(file, name)) return file.invokeMethod(name, arguments as Object[])
        if (!steps.containsKey(name)) throw new Mistake("no step '$name'")
        def named = arguments.find { it instanceof Map } ?: [:]
        def body = arguments.find { it instanceof Closure }
        def unknown = named.keySet() - steps[name]
        if (unknown) throw new Mistake("step '$name' takes no ${unknown.join(', ')}")
        switch (name) {
            case 'sh':
                def script = (named.script ?: arguments[0]) as String
                def check = ['bash', '-n', '-c', script].execute()
                if (check.waitFor() != 0) throw new Mistake("shell: ${check.errorStream.text}")
                commands << script
                if (named.returnStatus) return codes.remove()
                return named.returnStdout ? stdout : null
            case 'error': worsen('FAILURE'); throw new StepFailed()
            case 'unstable': worsen('UNSTABLE'); return null
            case 'catchError':
                try { section('steps', body) } catch (StepFailed e) { worsen(named.buildResult ?: 'FAILURE') }
                return null
            default:
                if (body) section('steps', body)
                return null
        }
    }

}

// The whole file's top level: `pipeline`, and steps in the file's own methods.
abstract class Declarative extends Script {
    Build checked
    def methodMissing(String name, Object arguments) {
        def list = arguments as List
        name == 'pipeline' ? checked.section('pipeline', list[0]) : checked.step(name, list)
    }
}

// What the releases' gates exit with, and what the build has to come to.
def cases = [
    [[], 'SUCCESS'], [[0, 0], 'SUCCESS'], [[0, 3], 'UNSTABLE'], [[3, 0], 'UNSTABLE'],
    [[1, 0], 'FAILURE'], [[4, 3], 'FAILURE'], [[3, 1], 'FAILURE'], [[130, 0], 'FAILURE'],
]
def file = new File(args[0])
def configuration = new CompilerConfiguration(scriptBaseClass: Declarative.name)
def failed = false
cases.each { codes, expected ->
    def build = new Build(sections: SECTIONS, required: REQUIRED, steps: STEPS, codes: new ArrayDeque(codes),
        stdout: codes.indices.collect { "6.1.${190 + it}\n" }.join(''))
    try {
        def script = new GroovyShell(this.class.classLoader, new Binding(), configuration).parse(file)
        build.file = script
        script.setChecked(build)
        script.run()
        def gates = build.commands.count { it.contains('ci/gate run') }
        if (build.result != expected || !build.codes.empty || gates != codes.size()) {
            System.err.println "$file: exit codes $codes come to $build.result with $gates gates, not $expected"
            failed = true
        }
    } catch (Mistake | StepFailed | MissingPropertyException | MissingMethodException
            | org.codehaus.groovy.control.CompilationFailedException e) {
        System.err.println "$file: $e.message"
        System.exit(1)
    }
}
System.exit(failed ? 1 : 0)
