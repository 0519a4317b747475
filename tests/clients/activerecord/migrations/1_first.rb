class First < ActiveRecord::Migration[6.1]
  def change
    create_table(:tenants) { |t| t.text :name, null: false }
    create_table(:countries, id: false) { |t| t.text :code, primary_key: true; t.text :name, null: false }
    create_table :users do |t|
      t.references :tenant, null: false, foreign_key: true, index: false
      t.text :email, null: false
      t.text :name, null: false
      t.text :country
      t.integer :version, null: false, default: 1
      t.index %i[tenant_id email], unique: true
    end
    add_foreign_key :users, :countries, column: :country, primary_key: :code
    reversible { |way| way.up { execute "CREATE TYPE order_status AS ENUM ('new', 'paid')" } }
    create_table :orders do |t|
      t.bigint :tenant_id, null: false
      t.references :user, null: false, foreign_key: { on_delete: :cascade }, index: false
      t.column :status, :order_status, null: false, default: 'new'
      t.decimal :amount, precision: 12, scale: 2, null: false
      t.column :created_at, :timestamptz, null: false, default: -> { 'now()' }
    end
    create_table :order_items do |t|
      t.bigint :tenant_id, null: false
      t.references :order, null: false, foreign_key: { on_delete: :cascade }, index: false
      t.text :product, null: false
      t.integer :quantity, null: false
    end
    create_table(:order_notes) { |t| t.bigint :order_id, null: false, index: true; t.text :text, null: false }
    create_table :documents, primary_key: %i[tenant_id id] do |t|
      t.bigint :tenant_id, null: false
      t.uuid :id, null: false, default: -> { 'gen_random_uuid()' }
      t.text :title, null: false
    end
  end
end
