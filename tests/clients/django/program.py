"""Django: the conformance steps by its ORM and its migrations, inspectdb, and CRUD by the admin site."""

import io
import os
import threading
import uuid

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

import django

django.setup()

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User as Login
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, OperationalError, ProgrammingError, connection, connections, transaction
from django.db.models import Avg, Count, Exists, F, OuterRef, Prefetch, Q, Sum, Window
from django.db.models.functions import RowNumber
from django.test import Client
from django.test.utils import setup_test_environment

import graph
from shop.models import Country, Document, Item, Note, Order, Tenant, User
from steps import class_of, otherwise, sqlstate, walk

setup_test_environment()  # keeps the template's context in the answers of `Client`
tenants = []


def of(number):
    return User.objects.filter(tenant_id=tenants[number - 1])


def tree(users):
    return [
        (user.name, order.amount, *sorted(item.product for item in order.items.all()))
        for user in users
        for order in sorted(user.orders.all(), key=lambda order: order.amount)
    ]


def migrate():
    call_command("migrate", "shop", "0001", verbosity=0)
    for app in ("contenttypes", "auth", "sessions", "admin"):
        call_command("migrate", app, verbosity=0)
    names = set(connection.introspection.table_names())
    return [*sorted(names & set(graph.TABLES)), Permission.objects.count()]


def create_graph():
    Country.objects.bulk_create(Country(code=code, name=name) for code, name in graph.COUNTRIES)
    for number, name in enumerate(graph.TENANTS, 1):
        with transaction.atomic():
            tenant = Tenant.objects.create(name=name)
            tenants.append(tenant.id)
            for user, (email, user_name, country, amounts) in enumerate(graph.users(number), 1):
                made = User.objects.create(tenant=tenant, email=email, name=user_name, country_id=country)
                for order, amount in enumerate(amounts, 1):
                    ordered = made.orders.create(tenant_id=tenant.id, amount=amount)
                    for product, quantity in graph.products(user, order):
                        ordered.items.create(tenant_id=tenant.id, product=product, quantity=quantity)
                    ordered.notes.create(text=f"n{order}")
    models = (Country, Document, Item, Note, Order, Tenant, User)
    return [(model._meta.db_table, model.objects.count()) for model in models] + tree(of(2).order_by("email"))


def bulk_insert():
    emails = [f"b{n:02}" for n in range(20)]
    made = User.objects.bulk_create(User(tenant_id=tenants[0], email=email, name=email) for email in emails)
    read = [User.objects.get(tenant_id=tenants[0], id=user.id).email for user in made]
    return ["order kept" if read == emails else "order lost", *read]


def bulk_insert_tenants():
    """Rows of several tenants in one statement (UNNEST of arrays)."""
    made = User.objects.bulk_create(
        User(tenant_id=tenant, email=f"z{n}", name="z") for n, tenant in enumerate(tenants * 3)
    )
    return [User.objects.get(tenant_id=user.tenant_id, id=user.id).email for user in made]


def upsert_with_key():
    User.objects.bulk_create(
        [User(tenant_id=tenants[0], email="u1@t1", name="upserted"), User(tenant_id=tenants[0], email="up@t1", name="new")],
        update_conflicts=True, unique_fields=["tenant_id", "email"], update_fields=["name"],
    )
    return list(of(1).filter(email__in=["u1@t1", "up@t1"]).order_by("email").values_list("email", "name"))


def update_or_create():
    found = [
        User.objects.update_or_create(tenant_id=tenants[0], email=email, defaults={"name": name})
        for email, name in (("u1@t1", "again"), ("uc@t1", "created"))
    ]
    found.append(User.objects.get_or_create(tenant_id=tenants[0], email="uc@t1", defaults={"name": "no"}))
    return [(user.name, made) for user, made in found]


def upsert_without_key():
    user = of(1).get(email="u2@t1").id
    User.objects.bulk_create(
        [User(id=user, tenant_id=tenants[0], email="u2@t1", name="u2")],
        update_conflicts=True, unique_fields=["id"], update_fields=["name"],
    )
    return of(1).get(email="u2@t1").name


def save():
    """An object made by hand with a primary key: UPDATE … WHERE id, without the tenant key."""
    user = of(1).get(email="u2@t1")
    User(id=user.id, tenant_id=tenants[0], email="u2@t1", name="saved", country_id="fr").save()
    return of(1).get(email="u2@t1").name


def get_without_key():
    order = Order.objects.get(tenant_id=tenants[0], amount=graph.amount(1, 1, 1)).pk
    found = Order.objects.get(pk=order)
    return found.amount, found.user.email


def get_uuid():
    Document.objects.create(tenant_id=tenants[0], id=uuid.UUID(int=7), title="given")
    made = Document.objects.create(tenant_id=tenants[0], title="made")
    return [Document.objects.get(pk=(tenants[0], key)).title for key in (uuid.UUID(int=7), made.id)]


def lazy():
    return tree(of(2).filter(name__startswith="u").order_by("email"))


def select_in():
    return tree(of(2).filter(name__startswith="u").order_by("email").prefetch_related("orders__items"))


def prefetch_limited():
    """The first order of each user: row_number() over the parent."""
    first = Prefetch("orders", Order.objects.filter(tenant_id=tenants[1]).order_by("amount")[:1], to_attr="first")
    return [(user.name, [order.amount for order in user.first])
            for user in of(2).filter(name__startswith="u").order_by("email").prefetch_related(first)]


def eager():
    items = Item.objects.filter(tenant_id=tenants[1]).select_related("order__user").order_by("product")
    return [(item.order.user.name, item.order.amount, item.product) for item in items]


def eager_page():
    orders = Order.objects.filter(tenant_id=tenants[1]).select_related("user").order_by("amount")[:2]
    return [(order.amount, order.user.email) for order in orders]


def children_without_key():
    orders = Order.objects.filter(tenant_id=tenants[1]).order_by("amount").prefetch_related("notes")
    return [(order.amount, [note.text for note in order.notes.all()]) for order in orders]


def children_by_parent():
    """Children that are written by their parents' ids or their own, without the tenant key."""
    orders = list(Order.objects.filter(tenant_id=tenants[1]).order_by("amount")[:2])
    parents = Q(order__in=[order.id for order in orders])
    item = orders[0].items.order_by("product").first()
    item.quantity = 9
    item.save(update_fields=["quantity"])
    counts = [orders[0].notes.update(text="again"), Note.objects.filter(parents).count()]
    counts += [Item.objects.filter(parents).update(quantity=F("quantity") + 1), orders[0].notes.all().delete()[0]]
    quantities = sorted(Item.objects.filter(parents).values_list("quantity", flat=True))
    gone = Item.objects.filter(parents).delete()[0]
    return [*counts, quantities, gone, Item.objects.filter(parents).exists()]


def both(make, key="tenant_id"):
    """A query over objects of one tenant and over all."""
    return (lambda: make(Q(**{key: tenants[0]}))), (lambda: make(Q()))


page, page_all = both(lambda where: list(User.objects.filter(where).order_by("email").values_list("email")[5:10]))
count, count_all = both(lambda where: Order.objects.filter(where).count())
distinct_count, distinct_count_all = both(
    lambda where: list(Order.objects.filter(where).aggregate(n=Count("user_id", distinct=True)).values()))
average, average_all = both(
    lambda where: list(Order.objects.filter(where).aggregate(a=Avg("amount"), s=Sum("amount")).values()))
distinct, distinct_all = both(
    lambda where: list(User.objects.filter(where).order_by("country_id").values_list("country_id").distinct()))
having, having_all = both(
    lambda where: list(User.objects.filter(where).values("tenant_id", "email").annotate(n=Count("orders"))
                       .filter(n__gt=1).order_by("email").values_list("email", "n")))
exists, exists_all = both(
    lambda where: list(User.objects.filter(where).filter(Exists(Order.objects.filter(user=OuterRef("pk"), amount__gt=12)))
                       .order_by("email").values_list("email")))
window, window_all = both(
    lambda where: list(Order.objects.filter(where).annotate(n=Window(RowNumber(), order_by=["amount", "id"]))
                       .order_by("amount", "id").values_list("amount", "n")[:3]))


def new(email):
    return User.objects.create(tenant_id=tenants[0], email=email, name="x")


def emails(prefix):
    return list(of(1).filter(email__startswith=prefix).order_by("email").values_list("email", flat=True))


def savepoint():
    caught = None
    with transaction.atomic():
        new("s1@t1")
        try:
            with transaction.atomic():
                new("s1@t1")
        except IntegrityError as error:
            caught = f"{class_of(error)} {sqlstate(error)}"
        new("s2@t1")
    return [caught, *emails("s")]


def nested():
    with transaction.atomic():
        new("n1@t1")
        try:
            with transaction.atomic():
                new("n2@t1")
                with transaction.atomic():
                    new("n3@t1")
                raise ValueError
        except ValueError:
            new("n4@t1")
    return emails("n")


def on_commit():
    called = []
    with transaction.atomic():
        transaction.on_commit(lambda: called.append("committed"))
    return called


def optimistic():
    version = of(1).get(email="u3@t1").version
    change = lambda: of(1).filter(email="u3@t1", version=version).update(version=F("version") + 1)
    return "updated" if change() else "lost", "overwritten" if change() else "stale"


def skip_locked():
    def jobs(using):
        orders = Order.objects.using(using).select_for_update(skip_locked=True, of=("self",)).select_related("user")
        return list(orders.filter(tenant_id=tenants[1]).order_by("amount").values_list("amount")[:2])

    with transaction.atomic(), transaction.atomic(using="other"):
        return jobs("default") + jobs("other")


def select_for_update():
    with transaction.atomic():
        user = User.objects.select_for_update().get(tenant_id=tenants[1], email="u1@t2")
        user.version += 1
        user.save(update_fields=["version"])
    try:
        with transaction.atomic(), transaction.atomic(using="other"):
            User.objects.select_for_update().get(tenant_id=tenants[1], email="u1@t2")
            User.objects.using("other").select_for_update(nowait=True).get(tenant_id=tenants[1], email="u1@t2")
    except OperationalError as error:
        return user.version, sqlstate(error)


def serializable():
    caught = None
    of(3).update(name="duty")
    on_duty = lambda using: User.objects.using(using).filter(tenant_id=tenants[2], name="duty").count()
    leave = lambda using, email: User.objects.using(using).filter(tenant_id=tenants[2], email=email).update(name="off")
    try:
        with transaction.atomic(using="two"):
            with transaction.atomic(using="one"):
                on_duty("one"), on_duty("two")
                leave("one", "u1@t3")
                leave("two", "u2@t3")
    except DatabaseError as error:
        caught = f"{class_of(error)} {sqlstate(error)}"
    left = on_duty("default")
    with transaction.atomic(using="two"):
        leave("two", "u2@t3")
    return caught, left, on_duty("default")


def cascade():
    User.objects.get(tenant_id=tenants[3], email="u1@t4").delete()
    return [model.objects.filter(tenant_id=tenants[3]).count() for model in (User, Order, Item)]


def read(**conditions):
    amounts = [order.amount for order in Order.objects.filter(**conditions).order_by("amount", "id").iterator(chunk_size=5)]
    return len(amounts), sum(amounts)


def cursor(is_all):
    def step():
        with transaction.atomic():
            return read(**({} if is_all else {"tenant_id": tenants[1]}))

    return step


def reflection():
    out = io.StringIO()
    call_command("inspectdb", "users", "orders", "documents", stdout=out)
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, "users")
    keys = sorted((value["columns"], value["primary_key"], value["unique"], str(value["foreign_key"])) for value in constraints.values())
    return [line.strip() for line in out.getvalue().splitlines() if line.strip() and not line.startswith("#")] + keys


def migrate_column():
    call_command("migrate", "shop", "0002", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT note FROM users WHERE tenant_id = %s AND email = 'u1@t1'", [tenants[0]])
        return cursor.fetchone()


def migrate_index():
    call_command("migrate", "shop", "0003", verbosity=0)
    with connection.cursor() as cursor:
        return "orders_by_status" in connection.introspection.get_constraints(cursor, "orders")


def migrate_enum():
    call_command("migrate", "shop", "0004", verbosity=0)
    order = Order.objects.get(tenant_id=tenants[0], amount=graph.amount(1, 1, 1))
    order.status = "sent"
    order.save()
    return Order.objects.get(tenant_id=tenants[0], amount=graph.amount(1, 1, 1)).status


def migrate_fails():
    caught = None
    try:
        call_command("migrate", "shop", "0005", verbosity=0)
    except ProgrammingError as error:
        caught = f"{class_of(error)} {sqlstate(error)}"
    with connection.cursor() as cursor:
        columns = [column.name for column in connection.introspection.get_table_description(cursor, "users")]
        cursor.execute("SELECT name FROM django_migrations WHERE app = 'shop' ORDER BY id DESC LIMIT 1")
        return caught, "half" in columns, cursor.fetchone()[0]


def migrate_back():
    call_command("migrate", "shop", "0003", verbosity=0)
    call_command("migrate", "shop", "0002", verbosity=0)
    with connection.cursor() as cursor:
        return "orders_by_status" in connection.introspection.get_constraints(cursor, "orders")


def reconnect():
    caught = None
    with connections["other"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    try:
        Tenant.objects.using("other").count()
    except (OperationalError, DatabaseError) as error:
        caught = class_of(error)
    connections["other"].close_if_unusable_or_obsolete()
    return caught, Country.objects.using("other").count()


def truncate():
    """What `flush` and TransactionTestCase send, for two tables."""
    with connection.cursor() as cursor:
        for sql in connection.ops.sql_flush(django.core.management.color.no_style(), ["order_notes", "documents"]):
            cursor.execute(sql)
    return Note.objects.count(), Document.objects.count()


# The admin site.


def browser():
    """One browser session, logged in."""
    client = Client(raise_request_exception=True)
    client.force_login(Login.objects.get(username="root"))
    return client


def admin_login():
    Login.objects.create_superuser("root", password="secret")
    answer = Client().post("/admin/login/", {"username": "root", "password": "secret", "next": "/admin/"})
    return answer.status_code, answer.headers["Location"]


def admin_list():
    page = browser().get("/admin/shop/user/", {"tenant__id__exact": tenants[0], "o": "1", "q": "u"})
    return page.status_code, page.context["cl"].result_count, [str(user) for user in page.context["cl"].result_list]


def admin_list_all():
    page = browser().get("/admin/shop/user/", {"p": 2})
    return page.status_code, page.context["cl"].result_count, [str(user) for user in page.context["cl"].result_list]


def admin_add():
    form = {"tenant": tenants[0], "email": "admin@t1", "name": "by admin", "country": "de", "version": 1}
    answer = browser().post("/admin/shop/user/add/", form)
    return answer.status_code, of(1).get(email="admin@t1").name, LogEntry.objects.count()


def admin_change():
    user = of(1).get(email="admin@t1")
    form = {"tenant": tenants[0], "email": "admin@t1", "name": "changed", "country": "fr", "version": 2}
    answer = browser().post(f"/admin/shop/user/{user.id}/change/", form)
    taken = browser().post(f"/admin/shop/user/{user.id}/change/", form | {"email": "u1@t1"})
    return answer.status_code, of(1).get(email="admin@t1").name, taken.status_code, "already exists" in taken.text


def admin_delete():
    user = of(1).get(email="admin@t1")
    asked = browser().get(f"/admin/shop/user/{user.id}/delete/")
    answer = browser().post(f"/admin/shop/user/{user.id}/delete/", {"post": "yes"})
    return asked.status_code, answer.status_code, of(1).filter(email="admin@t1").exists()


def many_to_many():
    """Group and its permissions: an insert by UNNEST with ON CONFLICT DO NOTHING."""
    from django.contrib.auth.models import Group

    group = Group.objects.create(name="clerks")
    group.permissions.add(*Permission.objects.order_by("codename")[:3])
    group.permissions.add(*Permission.objects.order_by("codename")[:4])
    found = list(group.permissions.order_by("codename").values_list("codename", flat=True))
    group.delete()
    return found


# Eight sessions at once.


def tenant_session(number):
    foreign = 0
    tenant = Tenant.objects.create(name=f"e{number}")
    for turn in range(15):
        with connection.cursor() as cursor:
            cursor.execute(f"SET application_name = 'session {number} {turn}'")
        with transaction.atomic():
            User.objects.create(tenant=tenant, email=f"e{turn}@{number}", name=f"session {number}")
        names = list(User.objects.filter(tenant=tenant).values_list("name", flat=True))
        foreign += sum(name != f"session {number}" for name in names) + abs(len(names) - turn - 1)
        with connection.cursor() as cursor:
            cursor.execute("SHOW application_name")
            foreign += cursor.fetchone()[0] != f"session {number} {turn}"
    return foreign, User.objects.filter(tenant=tenant).count()


def temp_session(number):
    foreign = 0
    for turn in range(5):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE scratch (n int) ON COMMIT DROP")
            cursor.execute("INSERT INTO scratch VALUES (%s), (%s)", [number, turn])
            cursor.execute("SELECT n FROM scratch")
            foreign += [row[0] for row in cursor.fetchall()] != [number, turn]
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pg_temp.scratch') IS NOT NULL")
        return foreign + cursor.fetchone()[0]


def eight_tenants():
    results = eight(tenant_session)
    return f"foreign {sum(result[0] for result in results)}", sum(result[1] for result in results)


def eight(session):
    results, errors = [], []

    def work(number):
        try:
            results.append(session(number))
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def request(function):
    """A step as a request: its connections end with it."""

    def step():
        try:
            return function()
        finally:
            connections.close_all()

    return otherwise(step, request(function.otherwise)) if hasattr(function, "otherwise") else step


def create_each(rows):
    """What a refused bulk_create is replaced by."""

    def step():
        for tenant, email, name in rows():
            User.objects.create(tenant_id=tenant, email=email, name=name)

    return step


def update(email, **values):
    return of(1).filter(email=email).update(**values)


def upsert_by_hand():
    update("u1@t1", name="upserted")
    User.objects.create(tenant_id=tenants[0], email="up@t1", name="new")


def sent_by_hand():
    Order.objects.filter(tenant_id=tenants[0], amount=graph.amount(1, 1, 1)).update(status="sent")


STEPS = [
    ("migrate", migrate),
    ("graph", create_graph, "migrate"),
    ("bulk-insert-returning", otherwise(
        bulk_insert, create_each(lambda: [(tenants[0], f"b{n:02}", f"b{n:02}") for n in range(20)]))),
    ("bulk insert of tenants", otherwise(
        bulk_insert_tenants, create_each(lambda: [(tenant, f"z{n}", "z") for n, tenant in enumerate(tenants * 3)]))),
    ("upsert-with-key", otherwise(upsert_with_key, upsert_by_hand)),
    ("upsert-without-key", upsert_without_key),
    ("update_or_create", update_or_create),
    ("save", otherwise(save, lambda: update("u2@t1", name="saved"))),
    ("get-without-key", get_without_key),
    ("get-uuid", get_uuid),
    ("lazy", lazy),
    ("select-in", select_in),
    ("prefetch limited", prefetch_limited),
    ("eager", eager),
    ("eager-page", eager_page),
    ("children without key", children_without_key),
    ("page", page),
    ("page-all", page_all),
    ("count", count),
    ("count-all", count_all),
    ("count distinct", distinct_count),
    ("count distinct all", distinct_count_all),
    ("avg", average),
    ("avg-all", average_all),
    ("distinct", distinct),
    ("distinct-all", distinct_all),
    ("having", having),
    ("having-all", having_all),
    ("exists", exists),
    ("exists-all", exists_all),
    ("window", window),
    ("window all", window_all),
    ("savepoint", savepoint),
    ("nested", nested),
    ("on commit", on_commit),
    ("optimistic", optimistic),
    ("skip-locked", skip_locked),
    ("select_for_update", select_for_update),
    ("bulk-update", lambda: of(1).update(version=F("version") + 1)),
    ("bulk-update-all", lambda: Order.objects.filter(amount__gt=30).update(status="paid")),
    ("bulk-delete", lambda: of(1).filter(email__startswith="b0").delete()),
    ("bulk-delete-all", lambda: User.objects.filter(email__startswith="b1").delete()),
    ("cascade", cascade),
    ("cursor", cursor(False)),
    ("cursor-all", cursor(True)),
    ("cursor with hold", lambda: read(tenant_id=tenants[1])),
    ("serializable", serializable),
    ("reflection", reflection),
    ("admin login", admin_login),
    ("admin list", admin_list, "admin login"),
    ("admin list all", admin_list_all, "admin login"),
    ("admin add", admin_add, "admin login"),
    ("admin change", admin_change, "admin add"),
    ("admin delete", admin_delete, "admin add"),
    ("many to many", many_to_many),
    ("migrate-column", migrate_column),
    ("migrate-index-concurrently", migrate_index),
    ("migrate-enum-value", otherwise(migrate_enum, sent_by_hand)),
    ("migrate-fails", migrate_fails),
    ("migrate back", migrate_back),
    ("reconnect", reconnect),
    ("children by parent", children_by_parent),
    ("truncate", truncate),
    ("eight-tenants", eight_tenants),
    ("eight-temps", lambda: f"foreign {sum(eight(temp_session))}"),
]
walk([(name, request(function), *needs) for name, function, *needs in STEPS])
