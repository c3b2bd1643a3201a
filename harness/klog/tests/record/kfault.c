// SPDX-License-Identifier: GPL-2.0
/*
 * Faults on demand: insmod kfault.ko fault=NAME makes the kernel fail in the way that is named.
 * For test machines that are thrown away.
 */
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/etherdevice.h>
#include <linux/proc_fs.h>
#include <linux/refcount.h>
#include <linux/rtnetlink.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

static char *fault = "";
module_param(fault, charp, 0);

static DEFINE_SPINLOCK(lock);
static DEFINE_MUTEX(mutex);
/* What the compiler must not know. */
static volatile int zero;
static volatile size_t many = 300;
static const int constant[16] = { 1 };

/* Assertions. */
static noinline void kfault_warn(void) { WARN_ON(1); }
static noinline void kfault_warn_text(void) { WARN(1, "kfault: a state of %d was not expected\n", 7); }
static noinline void kfault_bug(void) { BUG(); }
static noinline void kfault_panic(void) { panic("kfault: asked for on CPU %d", raw_smp_processor_id()); }

/* Exceptions. */
static noinline void kfault_null(void) { *(volatile int *)16 = 1; }
static noinline void kfault_null_read(void) { (void)*(volatile long *)0x28; }
static noinline void kfault_jump(void) { void (*f)(void) = NULL; OPTIMIZER_HIDE_VAR(f); f(); }
static noinline void kfault_paging(void) { *(volatile int *)0xffffc90012345678ul = 1; }
static noinline void kfault_read_only(void) { *(volatile int *)&constant[zero] = 2; }
static noinline void kfault_user_access(void) { (void)*(volatile int *)current->mm->start_stack; }
static noinline void kfault_gpf(void) { *(volatile int *)0xdead4ead00000000ul = 1; }
static noinline void kfault_divide(void) { volatile int r = 5 / zero; (void)r; }
static noinline void kfault_opcode(void) { asm volatile("ud1 %eax,%eax"); }
static noinline void kfault_int3(void) { asm volatile("int3"); }
static noinline void kfault_double_fault(void) { asm volatile("mov $0x1000,%esp; push %rax"); }

static noinline void kfault_no_exec(void)
{
	void (*f)(void) = kmalloc(64, GFP_KERNEL | __GFP_ZERO);

	OPTIMIZER_HIDE_VAR(f);
	f();
}

static noinline int kfault_recurse_down(int n)
{
	volatile char b[512];

	b[0] = n;
	b[511] = n;
	return kfault_recurse_down(n + 1) + b[0] + b[511];
}

static noinline void kfault_recurse(void) { kfault_recurse_down(0); }

static noinline void kfault_canary(void)
{
	volatile char b[64];
	int i;

	for (i = 0; i < 96 + zero; i++)
		b[i + zero] = 'x';
}

/* Lists, counters, memory. */
static noinline void kfault_list_del(void)
{
	static LIST_HEAD(head);
	struct list_head a, b;

	list_add(&a, &head);
	list_add(&b, &head);
	a.prev = &a;
	list_del(&a);
}

static noinline void kfault_list_add(void)
{
	static LIST_HEAD(head);
	static struct list_head a;

	list_add(&a, &head);
	list_add(&a, &head);
}

static noinline void kfault_count_free(void)
{
	refcount_t r = REFCOUNT_INIT(1);

	if (refcount_dec_and_test(&r))
		refcount_inc(&r);
}

static noinline void kfault_count_underflow(void) { refcount_t r = REFCOUNT_INIT(1); refcount_sub_and_test(2, &r); }
static noinline void kfault_count_saturate(void) { refcount_t r = REFCOUNT_INIT(INT_MAX); refcount_inc(&r); }
static noinline void kfault_double_free(void) { void *p = kmalloc(200, GFP_KERNEL); kfree(p); kfree(p); }
static noinline void kfault_redzone(void) { char *p = kmalloc(64, GFP_KERNEL); p[64 + zero] = 0; p[65 + zero] = 1; kfree(p); }

static noinline void kfault_use_after_free(void)
{
	struct kmem_cache *cache = kmem_cache_create("kfault", 64, 0, SLAB_CONSISTENCY_CHECKS | SLAB_POISON, NULL);
	char *p = kmem_cache_alloc(cache, GFP_KERNEL);

	kmem_cache_free(cache, p);
	p[8 + zero] = 'x';
	kmem_cache_alloc(cache, GFP_KERNEL);
}

static noinline void kfault_cache_leak(void)
{
	struct kmem_cache *cache = kmem_cache_create("kfault", 64, 0, SLAB_RED_ZONE, NULL);

	kmem_cache_alloc(cache, GFP_KERNEL);
	kmem_cache_destroy(cache);
}

static noinline void kfault_usercopy(void) { void *p = kmalloc(200, GFP_KERNEL); if (copy_to_user((void __user *)current->mm->start_stack, p, many)) kfree(p); }
static noinline void kfault_fortify(void) { static char b[4]; strcpy(b, fault); }
static noinline void kfault_page_state(void) { struct page *p = alloc_pages(GFP_KERNEL, 4); atomic_set(&p->_mapcount, 5); __free_pages(p, 4); }
static noinline void kfault_vfree(void) { vfree((void *)0xffffc90012345678ul); }
static noinline void kfault_zero_area(void) { vmalloc(0); }
static noinline void kfault_order(void) { __get_free_pages(GFP_KERNEL, 12 + zero); }

static noinline void kfault_alloc(void)
{
	int i;

	for (i = 0; i < 5000 && __get_free_pages(GFP_KERNEL | __GFP_NORETRY, 9); i++)
		;
}

static noinline void kfault_page_tables(void) { mm_inc_nr_ptes(current->mm); }

static noinline void kfault_rss(void)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	atomic_long_add(3, &current->mm->rss_stat.count[MM_ANONPAGES]);
#else
	percpu_counter_add(&current->mm->rss_stat[MM_ANONPAGES], 3);
#endif
}

/* Contexts. */
static noinline void kfault_atomic(void) { spin_lock(&lock); msleep(10); spin_unlock(&lock); }
static noinline void kfault_rcu_sleep(void) { rcu_read_lock(); msleep(10); rcu_read_unlock(); }
static noinline void kfault_irqs_off(void) { local_irq_disable(); smp_call_function_single(0, (smp_call_func_t)kfault_warn, NULL, 1); local_irq_enable(); }
static noinline void kfault_preempt(void) { preempt_disable(); }
static void kfault_timer_null(struct timer_list *t) { kfault_null(); }
static DEFINE_TIMER(timer_null, kfault_timer_null);
static noinline void kfault_timer(void) { mod_timer(&timer_null, jiffies + 5); msleep(500); }
static void kfault_timer_leak(struct timer_list *t) { preempt_disable(); }
static DEFINE_TIMER(timer_leak, kfault_timer_leak);
static noinline void kfault_timer_preempt(void) { mod_timer(&timer_leak, jiffies + 5); msleep(500); }
static void kfault_tasklet_leak(struct tasklet_struct *t) { preempt_disable(); }
static DECLARE_TASKLET(tasklet, kfault_tasklet_leak);
static noinline void kfault_softirq(void) { tasklet_schedule(&tasklet); msleep(500); }
static void kfault_work_leak(struct work_struct *w) { preempt_disable(); }
static DECLARE_WORK(work_leak, kfault_work_leak);
static noinline void kfault_work_preempt(void) { schedule_work(&work_leak); msleep(500); }
static void kfault_work_bug(struct work_struct *w) { kfault_bug(); }
static DECLARE_WORK(work_bug, kfault_work_bug);
static noinline void kfault_work(void) { schedule_work(&work_bug); msleep(500); }
static void kfault_irq_gpf(struct irq_work *w) { kfault_gpf(); }
static DEFINE_IRQ_WORK(irq_work, kfault_irq_gpf);
static noinline void kfault_irq(void) { irq_work_queue(&irq_work); msleep(500); }
static int kfault_thread_main(void *unused) { kfault_null(); return 0; }
static noinline void kfault_thread(void) { kthread_run(kfault_thread_main, NULL, "kfault"); msleep(500); }

/* Two CPUs that report at once. */
static noinline void kfault_race_left(void) { WARN_ON(1); }
static noinline void kfault_race_right(void) { WARN_ON(1); }

static int kfault_racer(void *right)
{
	int i;

	for (i = 0; i < 10; i++) {
		if (right)
			kfault_race_right();
		else
			kfault_race_left();
		msleep(20);
	}
	return 0;
}

static noinline void kfault_race(void)
{
	struct task_struct *left = kthread_create(kfault_racer, NULL, "left");
	struct task_struct *right = kthread_create(kfault_racer, (void *)1, "right");

	kthread_bind(left, 0);
	kthread_bind(right, 1);
	wake_up_process(left);
	wake_up_process(right);
	ssleep(3);
}

/* Time. */
static noinline void kfault_spin(void)
{
	unsigned long end = jiffies + 18 * HZ;

	preempt_disable();
	while (time_before(jiffies, end))
		cpu_relax();
	preempt_enable();
}

static noinline void kfault_spin_irqs_off(void) { local_irq_disable(); for (;;) cpu_relax(); }
static noinline void kfault_hung(void) { set_current_state(TASK_UNINTERRUPTIBLE); schedule_timeout(60 * HZ); }
static int kfault_locker(void *unused) { mutex_lock(&mutex); ssleep(60); return 0; }
static noinline void kfault_hung_mutex(void) { kthread_run(kfault_locker, NULL, "kfault"); msleep(500); mutex_lock(&mutex); }

/* Subsystems. */
static noinline void kfault_kobject(void) { kobject_create_and_add("kfault_twice", NULL); kobject_create_and_add("kfault_twice", NULL); }
static noinline void kfault_proc_twice(void) { proc_mkdir("kfault", NULL); proc_mkdir("kfault", NULL); }
static noinline void kfault_proc_remove(void) { remove_proc_entry("kfault_nothing", NULL); }
static noinline void kfault_enable_irq(void) { enable_irq(9); }
static noinline void kfault_free_irq(void) { free_irq(9, &lock); }
static noinline void kfault_rtnl(void) { ASSERT_RTNL(); }
static noinline void kfault_skb(void) { struct sk_buff *skb = alloc_skb(64, GFP_KERNEL); skb_put(skb, 4000); }

static noinline void kfault_device(void)
{
	static struct device device;

	device_initialize(&device);
	dev_set_name(&device, "kfault0");
	if (!device_add(&device))
		device_unregister(&device);
}

static netdev_tx_t kfault_xmit(struct sk_buff *skb, struct net_device *dev) { netif_stop_queue(dev); kfree_skb(skb); return NETDEV_TX_OK; }
static void kfault_tx_timeout(struct net_device *dev, unsigned int queue) { }
static const struct net_device_ops kfault_ops = { .ndo_start_xmit = kfault_xmit, .ndo_tx_timeout = kfault_tx_timeout };

static struct net_device *kfault_netdev(void)
{
	struct net_device *dev = alloc_netdev(0, "kfault%d", NET_NAME_UNKNOWN, ether_setup);

	dev->netdev_ops = &kfault_ops;
	dev->watchdog_timeo = HZ;
	eth_hw_addr_random(dev);
	return register_netdev(dev) ? NULL : dev;
}

static noinline void kfault_netdev_hold(void) { struct net_device *dev = kfault_netdev(); dev_hold(dev); unregister_netdev(dev); }
static noinline void kfault_netdev_watchdog(void) { kfault_netdev(); ssleep(60); }

static const struct { const char *name; void (*run)(void); } faults[] = {
#define F(name) { #name, kfault_##name }
	F(warn), F(warn_text), F(bug), F(panic),
	F(null), F(null_read), F(jump), F(paging), F(read_only), F(user_access), F(gpf), F(divide),
	F(opcode), F(int3), F(double_fault), F(no_exec), F(recurse), F(canary),
	F(list_del), F(list_add), F(count_free), F(count_underflow), F(count_saturate),
	F(double_free), F(redzone), F(use_after_free), F(cache_leak), F(usercopy), F(fortify),
	F(page_state), F(vfree), F(zero_area), F(order), F(alloc), F(page_tables), F(rss),
	F(atomic), F(rcu_sleep), F(irqs_off), F(preempt), F(timer), F(timer_preempt), F(softirq),
	F(work), F(work_preempt), F(irq), F(thread), F(race), F(spin), F(spin_irqs_off), F(hung), F(hung_mutex),
	F(kobject), F(proc_twice), F(proc_remove), F(enable_irq), F(free_irq), F(rtnl), F(skb),
	F(device), F(netdev_hold), F(netdev_watchdog),
};

static int __init kfault_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (!strcmp(fault, faults[i].name)) {
			faults[i].run();
			/* What is still to come may run our code. */
			return 0;
		}
	}
	return -EINVAL;
}
module_init(kfault_init);

static void __exit kfault_exit(void) { }
module_exit(kfault_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("faults on demand");
